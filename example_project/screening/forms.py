from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms

from example_project.screening.importers import new_project, read_papers
from example_project.screening.models.project import default_budget

if TYPE_CHECKING:
    from django.core.files.uploadedfile import UploadedFile

    from example_project.screening.models import Paper, Project


class ProjectForm(forms.Form):
    """A question, its criteria and the file with the papers."""

    name = forms.CharField(max_length=200)
    question = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 2}), help_text="What the review wants to know."
    )
    criteria = forms.CharField(
        widget=forms.Textarea(attrs={"rows": 4}),
        help_text="Which papers to include. Both reviewers are told this.",
    )
    budget_usd = forms.DecimalField(
        label="Budget in US dollars",
        required=False,
        min_value=0,
        max_digits=12,
        decimal_places=4,
        initial=default_budget,
        help_text="What the calls of both reviewers may cost together. The screening stops there, until you raise it.",
    )
    file = forms.FileField(
        label="Papers",
        help_text="CSV as PubMed, Rayyan or ASReview export it. It needs a title and an abstract column.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"label_suffix": "", **kwargs})

    def clean_file(self) -> list[Paper]:
        """The papers in the file. Reading its rows is the only way to validate it."""
        file: UploadedFile[bytes] = self.cleaned_data["file"]
        try:
            return read_papers(file.read())
        except ValueError as error:
            raise forms.ValidationError(str(error)) from error

    def save(self) -> Project:
        data = self.cleaned_data
        papers, budget = data["file"], data["budget_usd"]
        return new_project(data["name"], data["question"], data["criteria"], papers, budget)
