"""Agents of Pydantic AI in jobs: each request to a model and each call of a tool is a step, so a resumed job repeats
none of them. It needs pydantic-ai-slim (the extra `pydantic-ai`). See docs/how-to/language_models.md#pydantic-ai.

The steps stand directly around the model and the tools, and not around `wrap_model_request`: a resumed run then does
what an agent does between its calls, and comes to the same requests.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import count
from typing import Any, Literal
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async

from pgonly_django.amounts import Amount, Cost
from pgonly_django.conf import settings
from pgonly_django.context.transactions import retry_while_down
from pgonly_django.current_job import current_context, current_job
from pgonly_django.database.statement import printable
from pgonly_django.events import emit
from pgonly_django.exceptions import OptionError, PgonlyError
from pgonly_django.masking import masked
from pgonly_django.models.checkpoint import Step

try:
    from pydantic import TypeAdapter
    from pydantic_ai.capabilities import AbstractCapability, CapabilityOrdering
    from pydantic_ai.exceptions import ModelRetry, ToolFailed, ToolFailedError, ToolRetryError
    from pydantic_ai.messages import (
        ModelMessagesTypeAdapter,
        ModelResponse,
        PartDeltaEvent,
        PartStartEvent,
        TextPart,
        TextPartDelta,
        ToolReturn,
        ToolReturnContent,
    )
    from pydantic_ai.models import CompletedStreamedResponse
    from pydantic_ai.models.wrapper import WrapperModel
    from pydantic_ai.tools import DeferredToolResults, ToolDenied
    from pydantic_core import to_jsonable_python
except ImportError as error:
    raise ModuleNotFoundError(f"{error}: pip install pydantic-ai-slim", name=error.name) from error

APPROVE, DENY = "approve", "deny"
MODEL = "model "  # the beginning of the names of its steps
NAME_LENGTH, QUESTION_LENGTH = 100, 1000
AGAIN = (
    "{}: no stored answer is one to this request, and {} stored answers were not asked for yet. The prompt, tools or "
    "settings have changed since, so the request is made again."
)
# What a model gets to see of the parameters of a request. Others are for the library itself, some of them sets.
PARAMETERS = (
    "function_tools", "native_tools", "output_tools", "output_mode", "output_object", "prompted_output_template",
    "allow_text_output", "allow_image_output", "instruction_parts",
)  # fmt: skip

_contents = TypeAdapter(ToolReturnContent)
_tool_returns = TypeAdapter(ToolReturn)
_plain = partial(to_jsonable_python, by_alias=True, bytes_mode="base64", inf_nan_mode="null")


class AgentOutsideJobError(PgonlyError, RuntimeError):
    """An agent with JobSteps was run where there is no job, or in a job that has no context."""

    def __init__(self, *, is_in_job: bool) -> None:
        where = "in a job without a context" if is_in_job else "outside of a job"
        remedy = "Give the task takes_context=True" if is_in_job else "Run it in a task"
        super().__init__(
            f'This agent has JobSteps, and was run {where}. {remedy}, or JobSteps outside_jobs="run".'
        )


@dataclass(kw_only=True)
class JobSteps(AbstractCapability[Any]):
    """Makes each request of an agent to a model, and each call of a tool, a step of the job that runs the agent.

        agent = Agent("openai:gpt-5", capabilities=[JobSteps()])

    The task needs `takes_context=True`. The name of a step holds a fingerprint of the request, so a request that is not
    the same after a deploy is made again, and a line in the job's log says so. A tool that requires approval asks on
    the job's page, and the job waits without a worker. Text that a model streams goes to context.emit().

    `outside_jobs`: "raise" raises AgentOutsideJobError where there is no job; "run" runs the agent without steps.
    `stream`: asks models for streams, so that text is emitted while it comes. `price`: a function that takes a
    ModelResponse and returns what it has cost in US dollars; by default the library's own prices count. `reserve`: what
    one request may cost at most. The cost goes to the budget of the job."""

    outside_jobs: Literal["raise", "run"] = "raise"
    stream: bool = False
    price: Callable[[ModelResponse], Amount] | None = None
    reserve: Amount | None = None
    id: str | None = "job_steps"  # one of an agent run replaces that of the agent

    def __post_init__(self) -> None:
        if self.outside_jobs not in ("raise", "run"):
            raise OptionError(f'JobSteps(outside_jobs={self.outside_jobs!r}): it must be "raise" or "run".')

    def get_ordering(self) -> CapabilityOrdering:
        """See AbstractCapability."""
        return CapabilityOrdering(position="innermost")

    async def before_run(self, ctx: Any) -> None:
        """See AbstractCapability. Raises AgentOutsideJobError before anything is called."""
        if current_context.get() is None and self.outside_jobs == "raise":
            raise AgentOutsideJobError(is_in_job=current_job.get() is not None)

    def get_wrapper_model(self, model: Any) -> StepModel | None:
        """See AbstractCapability."""
        return None if current_context.get() is None else StepModel(model, self)

    async def wrap_tool_execute(
        self, ctx: Any, *, call: Any, tool_def: Any, args: Any, handler: Callable[..., Any]
    ) -> Any:
        """See AbstractCapability. MCP servers are called here, too."""
        if (context := current_context.get()) is None:
            return await handler(args)
        with _names().name(f"tool {call.tool_name}", call.args_as_dict()) as name:
            stored = await context.astep(name, _call_tool, handler, args)
        return _end_of_call(stored)

    async def handle_deferred_tool_calls(self, ctx: Any, *, requests: Any) -> DeferredToolResults | None:
        """See AbstractCapability. Approvals are events: the answer "approve" approves, and every other one denies."""
        if (context := current_context.get()) is None or not requests.approvals:
            return None
        answers = await asyncio.gather(
            *(_approval(context, call) for call in requests.approvals), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        ids = (call.tool_call_id for call in requests.approvals)
        return DeferredToolResults(approvals=dict(zip(ids, answers, strict=True)))

    def cost_of(self, step: str, stored: Any) -> Cost:
        """Returns what a response has cost. A price that is not known counts as `reserve`."""
        response = _response(stored)
        usage = response.usage
        try:
            usd = self.price(response) if self.price else usage.cost or response.cost().total_price
        except (LookupError, ValueError):
            if current_context.get().budget is not None:
                message = f"There is no price of {response.model_name}. Give one: JobSteps(price=...)."
                emit("limits.cost_unknown", message, level=logging.WARNING, step=step)
            usd = self.reserve or 0
        return Cost(usd, usage.input_tokens, usage.output_tokens, response.model_name)


class StepModel(WrapperModel):
    """A model each of whose requests is a step."""

    def __init__(self, wrapped: Any, job_steps: JobSteps) -> None:
        super().__init__(wrapped)
        self._job_steps = job_steps

    async def request(
        self, messages: Any, model_settings: Any, model_request_parameters: Any
    ) -> ModelResponse:
        """See Model."""
        given = (messages, model_settings, model_request_parameters)
        return await self._step(given, self._streamed if self._job_steps.stream else self.wrapped.request)

    @asynccontextmanager
    async def request_stream(
        self, messages: Any, model_settings: Any, model_request_parameters: Any, run_context: Any = None
    ) -> AsyncIterator[CompletedStreamedResponse]:
        """See Model. Its text is emitted while it comes; the events of the stream follow when it has ended."""
        given = (messages, model_settings, model_request_parameters)
        response = await self._step(given, partial(self._streamed, run_context=run_context))
        yield CompletedStreamedResponse(
            response, model_request_parameters=model_request_parameters, replay_events=True
        )

    async def _step(self, given: tuple[Any, Any, Any], ask: Callable[..., Any]) -> ModelResponse:
        context: Any = current_context.get()
        reserve = None if context.budget is None else self._job_steps.reserve

        async def call() -> Any:
            return _storable(ModelMessagesTypeAdapter.dump_python([await ask(*given)], mode="json")[0])

        with _names().name(f"{MODEL}{self.model_name}", [self.model_id, *_request(*given)]) as name:
            if unused := await sync_to_async(_names().unused_instead_of)(name):
                context.log(AGAIN.format(name, unused))
            cost_of = partial(self._job_steps.cost_of, name)
            stored = await context.astep(name, call, cost=cost_of, reserve=reserve, one_call=True)
        return _response(stored)

    async def _streamed(self, *given: Any, run_context: Any = None) -> ModelResponse:
        context: Any = current_context.get()
        async with self.wrapped.request_stream(*given, run_context) as stream:
            async for event in stream:
                if text := _text_in(event):
                    context.emit(text)
        response: ModelResponse = stream.get()
        if response.text and response.tool_calls:
            context.emit("\n")  # the text of another answer follows
        return response


class _Names:
    """The names of the steps of agents in one run of a job."""

    def __init__(self) -> None:
        self._taken: defaultdict[str, set[int]] = defaultdict(set)
        self._given: set[str] = set()

    @contextmanager
    def name(self, what: str, request: Any) -> Iterator[str]:
        """Stands around a call, and names it after its request. Further calls with the same request are numbered. A
        call that raises an error gives its number back."""
        text = json.dumps(_plain(request, fallback=_kind), sort_keys=True)
        name = f"{printable(what)[:NAME_LENGTH]} {sha256(text.encode()).hexdigest()[:12]}"
        taken = self._taken[name]
        number = next(number for number in count(1) if number not in taken)
        taken.add(number)
        name = name if number == 1 else f"{name} {number}"
        self._given.add(name)
        try:
            yield name
        except BaseException:
            taken.discard(number)
            raise

    def unused_instead_of(self, name: str) -> int:
        """Returns how many answers of models earlier runs have stored that this one has not asked for; 0 where the
        answer of this name is stored."""
        run: Any = current_job.get()
        stored = retry_while_down(run, _stored_answers, run.job.id) if run.job.lease_epoch > 1 else set()
        return 0 if name in stored else len(stored - self._given)


_names_of: WeakKeyDictionary[Any, _Names] = WeakKeyDictionary()


def _names() -> _Names:
    return _names_of.setdefault(current_job.get(), _Names())


def _stored_answers(alias: str, job_id: str) -> set[str]:
    steps = Step.objects.using(alias).filter(job_id=job_id, name__startswith=MODEL)
    return set(steps.values_list("name", flat=True))


def _request(messages: Any, model_settings: Any, parameters: Any) -> list[Any]:
    """Returns what a request says, without what is other in each run: times, and the ids of runs. The ids of calls
    become numbers: they differ where a model is asked again, and answers the same."""
    numbers: dict[str, int] = {}
    sent = []
    for message in ModelMessagesTypeAdapter.dump_python(messages, mode="json", fallback=_kind):
        for part in message["parts"]:
            part.pop("timestamp", None)
            if "tool_call_id" in part:
                part["tool_call_id"] = numbers.setdefault(part["tool_call_id"], len(numbers))
        sent.append([message["kind"], message.get("instructions"), message["parts"]])
    shown = {name: getattr(parameters, name, None) for name in PARAMETERS}
    return [sent, _plain(model_settings, fallback=_kind), _plain(shown, fallback=_kind)]


def _response(stored: Any) -> ModelResponse:
    response: ModelResponse = ModelMessagesTypeAdapter.validate_python([stored])[0]
    return response


async def _call_tool(handler: Callable[..., Any], args: Any) -> dict[str, Any]:
    """Returns how the call of a tool ended, to be stored. What it asks of the model is a result, too."""
    try:
        returned = await handler(args)
    except (ModelRetry, ToolRetryError) as error:
        return {"retry": _message(error)}
    except (ToolFailed, ToolFailedError) as error:
        return {"failed": _message(error)}
    kind = "tool_return" if isinstance(returned, ToolReturn) else "returned"
    return {kind: _storable(_plain(returned))}


def _end_of_call(stored: dict[str, Any]) -> Any:
    ((kind, value),) = stored.items()
    match kind:
        case "retry":
            raise ModelRetry(value)
        case "failed":
            raise ToolFailed(value)
        case "tool_return":
            return _tool_returns.validate_python(value)
        case _:
            return _contents.validate_python(value)


def _message(error: Any) -> str:
    part = getattr(error, "tool_retry", None) or getattr(error, "tool_failed", None)
    return printable(str(error.message if part is None else part.content))


def _text_in(event: Any) -> str:
    match event:
        case (
            PartStartEvent(part=TextPart(content=text))
            | PartDeltaEvent(delta=TextPartDelta(content_delta=text))
        ):
            return str(text)
        case _:
            return ""


async def _approval(context: Any, call: Any) -> Any:
    """Returns what a person has answered. JobWaiting ends the run if that is still open."""
    args = call.args_as_dict()
    question = _question(call.tool_name, args)
    with _names().name(f"approve {context.job_id} {call.tool_name}", args) as key:
        answer = await context.await_for_event(key, choices=(APPROVE, DENY), question=question)
    return True if answer == APPROVE else ToolDenied()


def _question(tool: str, args: dict[str, Any]) -> str:
    shown = masked(args, settings().masked_arguments)
    said = ", ".join(
        f"{name}={json.dumps(value, default=str, ensure_ascii=False)}" for name, value in shown.items()
    )
    return printable(f"May the agent call {tool}({said})?")[:QUESTION_LENGTH]


def _storable(value: Any) -> Any:
    """JSON as PostgreSQL takes it: what a tool has read may contain NUL, and was paid."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable(name): _storable(inner) for name, inner in value.items()}
    return [_storable(inner) for inner in value] if isinstance(value, list) else value


def _kind(value: Any) -> str:
    """Stands for a value that is not JSON, such as a timeout of an HTTP client, which differs in each process."""
    return type(value).__qualname__
