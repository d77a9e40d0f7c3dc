from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any

from django.contrib import messages
from django.core.paginator import Page, Paginator
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from example_project.screening.deciding import decide, last_decided, place
from example_project.screening.forms import ProjectForm
from example_project.screening.models import Paper, Project
from example_project.screening.models.paper import Outcome, PaperQuerySet
from example_project.screening.status import filters, held_because, history, status
from example_project.screening.summary import summarise
from example_project.screening.tasks import CHOICES, start_screening
from pgonly_django.exceptions import AmountError, BudgetError

PAPERS_A_PAGE = 25
VERBS: dict[str, Callable[[Project], None]] = {
    "start": start_screening,
    "split": partial(start_screening, by_paper=True),
    "cancel": Project.cancel,
    "resume": Project.resume,
}
DECISIONS = (*CHOICES, "")
QUESTIONS_SHOWN = 5


@require_safe
def project_list(request: HttpRequest) -> HttpResponse:
    shown = Project.objects.with_title()[:PAPERS_A_PAGE]
    projects = [(project, status(project)) for project in shown]
    return render(request, "screening/projects.html", {"projects": projects})


@require_http_methods(["GET", "HEAD", "POST"])
def new(request: HttpRequest) -> HttpResponse:
    form = ProjectForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        return redirect("screening:project", form.save().pk)
    return render(request, "screening/new.html", {"form": form})


@require_safe
@never_cache
def project_page(request: HttpRequest, pk: int) -> HttpResponse:
    project = get_object_or_404(Project, pk=pk)
    now, show = status(project), request.GET.get("show", "")
    page = _papers(project, show, request.GET.get("page"))
    context: dict[str, Any] = {
        "project": project,
        "now": now,
        "history": history(project),
        "show": show,
        "filters": filters(now.outcomes),
        "page": page,
        "held_because": held_because(project),
        "rows": [(paper, _opinions(paper, project)) for paper in page],
        "questions": [(paper, _opinions(paper, project)) for paper in _disputed(project)[:QUESTIONS_SHOWN]],
        "more_questions": max(now.outcomes["disputed"] - QUESTIONS_SHOWN, 0),
        "summarise": partial(summarise, project),  # called by the template, unless the summary is cached
    }
    return render(request, "screening/project.html", context)


@require_safe
@never_cache
def progress(_request: HttpRequest, pk: int) -> JsonResponse:
    """The JSON that the page's script polls."""
    return JsonResponse(status(get_object_or_404(Project, pk=pk)).as_json())


@require_POST
def operate(_request: HttpRequest, pk: int, verb: str) -> HttpResponse:
    """The buttons. A verb that the job's state does not allow changes nothing: the page may be out of date."""
    project = get_object_or_404(Project, pk=pk)
    if verb not in VERBS:
        raise Http404(f"No verb {verb!r}.")
    VERBS[verb](project)
    return redirect("screening:project", pk)


@require_POST
def raise_budget(request: HttpRequest, pk: int) -> HttpResponse:
    """Raise and resume: the screening goes on where its budget stopped it."""
    project = get_object_or_404(Project, pk=pk)
    try:
        project.raise_budget(Decimal(request.POST.get("usd", "")))
    except (BudgetError, AmountError) as error:
        messages.error(request, str(error))
    except InvalidOperation:
        messages.error(request, "The new budget must be a number of US dollars.")
    return redirect("screening:project", pk)


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
def paper_page(request: HttpRequest, pk: int, position: int) -> HttpResponse:
    """One paper with both verdicts. A person decides it here."""
    papers = Paper.objects.select_related("project").filter(project=pk).with_outcome()
    paper = get_object_or_404(papers, position=position)
    if request.method == "POST":
        return _decide(request, paper)
    context = {
        "paper": paper,
        "project": paper.project,
        "opinions": _opinions(paper, paper.project),
        "place": place(paper),
        "last_decided": last_decided(paper.project),
    }
    return render(request, "screening/paper.html", context)


def _decide(request: HttpRequest, paper: Paper) -> HttpResponse:
    """Write the decision (empty: undo it) and redirect to the next disputed paper."""
    decision = request.POST.get("decision")
    if decision not in DECISIONS:
        return HttpResponse(
            "decision must be include, exclude or empty", status=400, content_type="text/plain"
        )
    who = request.user.get_username() if request.user.is_authenticated else "a person"
    decide(paper, decision, who)
    following = _disputed(paper.project).first() if decision else paper
    if following is None:
        messages.success(request, "That was the last disputed paper.")
    if following is None or "from_project" in request.POST:
        return redirect("screening:project", paper.project_id)
    return redirect("screening:paper", paper.project_id, following.position)


@require_POST
def undo(_request: HttpRequest, pk: int) -> HttpResponse:
    """Take the last decision back, and show its paper."""
    project = get_object_or_404(Project, pk=pk)
    paper = last_decided(project)
    if paper is None:
        return redirect("screening:project", pk)
    decide(paper, "", "")
    return redirect("screening:paper", pk, paper.position)


def _disputed(project: Project) -> PaperQuerySet:
    return Paper.objects.of(project).of_outcome(Outcome.DISPUTED).prefetch_related("verdicts")


def _papers(project: Project, show: str, number: str | None) -> Page[Paper]:
    papers = Paper.objects.of(project).prefetch_related("verdicts")
    shown = papers.of_outcome(show) if show in Outcome.values else papers.with_outcome()
    return Paginator(shown, PAPERS_A_PAGE).get_page(number)


def _opinions(paper: Paper, project: Project) -> list[tuple[str, Any]]:
    """(reviewer, verdict or None) in the project's order."""
    verdicts = {verdict.reviewer: verdict for verdict in paper.verdicts.all()}
    return [(name, verdicts.get(name)) for name in project.reviewers]
