from example_project.screening.models.call import ReviewerCall
from example_project.screening.models.paper import Paper
from example_project.screening.models.project import Project, ScreeningRun
from example_project.screening.models.verdict import Verdict

__all__ = ["Paper", "Project", "ReviewerCall", "ScreeningRun", "Verdict"]
