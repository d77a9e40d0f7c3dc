"""Jobs that run agents of Pydantic AI, whose models are functions of this module."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from asgiref.sync import async_to_sync
from pydantic_ai import Agent
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ApprovalRequired, ModelRetry, ToolFailed
from pydantic_ai.messages import (
    BinaryContent,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturn,
    ToolReturnPart,
)
from pydantic_ai.models.function import DeltaToolCall, FunctionModel
from pydantic_ai.usage import RequestUsage

from pgonly_django import Retry, task
from pgonly_django.contrib.pydantic_ai import JobSteps
from tests.jobs import AT_ONCE

AGAIN = Retry(timedelta(0))
paid = []  # what models and tools were asked, by all runs


def returns_in(messages):
    """What tools have returned."""
    parts = [part for message in messages if isinstance(message, ModelRequest) for part in message.parts]
    return [part for part in parts if isinstance(part, ToolReturnPart)]


def calls(*named):
    """A response that calls tools, each with an id that is new, as a provider makes them."""
    return ModelResponse(
        [ToolCallPart(name, args) for name, args in named], usage=RequestUsage(input_tokens=100)
    )


def say(text):
    return ModelResponse([TextPart(text)], usage=RequestUsage(input_tokens=1000, output_tokens=10))


def ask(prompt):
    paid.append(prompt)


def prompt_of(messages):
    return str(messages[0].parts[0].content)


def adds_twice(messages, _info):
    """Two calls side by side, then one with their sum, then the answer."""
    ask(f"model {len(messages)}")
    returned = [part.content for part in returns_in(messages)]
    if not returned:
        return calls(("add", {"a": 1, "b": 2}), ("add", {"a": 3, "b": 4}))
    if len(returned) == 2:
        return calls(("add", {"a": returned[0], "b": returned[1]}))
    return say(f"The sum is {returned[2]}.")


adder = Agent(FunctionModel(adds_twice, model_name="adder"), capabilities=[JobSteps()])


@adder.tool_plain
async def add(a: int, b: int) -> int:
    """Add."""
    ask(f"add {a} {b}")
    await asyncio.sleep(0)
    return a + b


@task(takes_context=True)
async def adds(context):
    return (await adder.run("Add.")).output


@task(takes_context=True)
def adds_in_a_thread(context):
    return async_to_sync(adder.run)("Add.").output


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
async def adds_after_an_error(context):
    output = (await adder.run("Add.")).output
    if context.attempt == 1:
        raise AGAIN
    return output


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
async def asks_otherwise_after_a_deploy(context):
    output = (await adder.run("Add." if context.attempt == 1 else "Add, please.")).output
    if context.attempt == 1:
        raise AGAIN
    return output


@task(takes_context=True)
async def asks_the_same_twice(context):
    return [(await adder.run("Add.")).output for _ in range(2)]


@task
async def adds_without_a_context():
    return (await adder.run("Add.")).output


@task(takes_context=True, atomic=True)
def adds_in_a_transaction(context):
    return async_to_sync(adder.run)("Add.").output


def tries(messages, _info):
    """Calls the tool that the prompt names, and says what it has returned."""
    ask("model")
    returned = returns_in(messages)
    if not returned or (returned[-1].outcome == "retried" and len(returned) < 2):
        return calls((prompt_of(messages), {}))
    return say(f"{returned[-1].outcome}: {returned[-1].content}")


trier = Agent(FunctionModel(tries, model_name="trier"), capabilities=[JobSteps()], retries=3)


@trier.tool_plain
def breaks_once() -> str:
    """Raise an error in the first call."""
    ask("breaks_once")
    if paid.count("breaks_once") == 1:
        raise ConnectionError("once")
    return "mended"


@trier.tool_plain
def asks_again() -> str:
    """Ask the model to call it again."""
    ask("asks_again")
    if paid.count("asks_again") == 1:
        raise ModelRetry("Say please.")
    return "well"


@trier.tool_plain
def gives_up() -> str:
    """Say that it has failed."""
    ask("gives_up")
    raise ToolFailed("There is no such paper.")


@trier.tool_plain
def returns_nul() -> dict[str, float | str]:
    """Return what PostgreSQL does not store."""
    return {"text": "a\x00b", "number": float("nan")}


@trier.tool_plain
def returns_a_picture() -> ToolReturn:
    """Return bytes, and more beside the value."""
    ask("returns_a_picture")
    return ToolReturn("a picture", content=["Look:", BinaryContent(b"\xff\x00", media_type="image/png")])


@task(takes_context=True, backoff=AT_ONCE, max_attempts=3)
async def calls_tool(context, name):
    output = (await trier.run(name)).output
    if context.attempt < 2:
        raise AGAIN
    return output


def deletes(messages, _info):
    ask("model")
    returned = returns_in(messages)
    if not returned:
        return calls(("delete", {"name": "a", "token": "secret"}), ("delete", {"name": "b"}), ("look", {}))
    return say(", ".join(sorted(f"{part.outcome} {part.content}" for part in returned)))


clerk = Agent(FunctionModel(deletes, model_name="clerk"), capabilities=[JobSteps()])


@clerk.tool_plain(requires_approval=True)
def delete(name: str, token: str = "") -> str:
    """Delete."""
    ask(f"delete {name}")
    return f"deleted {name}"


@clerk.tool
def look(ctx) -> str:
    """Look, after a person has allowed it."""
    if not ctx.tool_call_approved:
        raise ApprovalRequired
    ask("look")
    return "seen"


@task(takes_context=True)
async def tidies_up(context):
    return (await clerk.run("Tidy up.")).output


async def streams(messages, _info):
    ask("stream")
    if not returns_in(messages):
        yield "I "
        yield "look."
        yield {1: DeltaToolCall("look_up", "{}", tool_call_id="c1")}
    else:
        yield "Found "
        yield "it."


streamer = Agent(
    FunctionModel(stream_function=streams, model_name="streamer"), capabilities=[JobSteps(stream=True)]
)


@streamer.tool_plain
def look_up() -> str:
    """Look up."""
    return "it"


@task(takes_context=True)
async def says_aloud(context):
    return (await streamer.run("Look.")).output


@task(takes_context=True)
async def says_aloud_to_a_handler(context):
    heard = []

    async def listen(_ctx, events):
        heard.extend([type(event).__name__ async for event in events])

    output = (await streamer.run("Look.", event_stream_handler=listen)).output
    return [output, heard.count("PartStartEvent")]


def costs(messages, info):
    ask("model")
    return say("yes")


def priced(model_name="gpt-4o-mini", **options):
    model = FunctionModel(costs, model_name=model_name)
    model._system = "openai"
    return Agent(model, capabilities=[JobSteps(**options)])


AGENTS = {
    "by the library": priced(),
    "of our own": priced(price=lambda response: response.usage.input_tokens / 1000, reserve="1.5"),
    "not known": priced(model_name="nobody-knows-it", reserve="0.5"),
}


@task(takes_context=True, budget="agents")
async def pays(context, which):
    return (await AGENTS[which].run("Is this a trial?")).output


def fails_once(messages, _info):
    ask("model")
    if len(paid) == 1:
        raise ConnectionError("once")
    return say("yes")


unsteady = Agent(FunctionModel(fails_once, model_name="unsteady"), capabilities=[JobSteps()])


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
async def asks_again_after_an_error(context):
    try:
        output = (await unsteady.run("Is this a trial?")).output
    except ConnectionError:
        output = (await unsteady.run("Is this a trial?")).output
    if context.attempt == 1:
        raise AGAIN
    return output


class Counted(AbstractCapability):
    """Another capability of the project, whose hooks are called in each run."""

    async def before_model_request(self, ctx, request_context):
        noted.append("before")
        ctx.messages[-1].metadata = {"run": str(len(noted))}
        return request_context


noted = []
observed = Agent(FunctionModel(adds_twice, model_name="adder"), capabilities=[Counted(), JobSteps()])
observed.tool_plain(add)


@task(takes_context=True, backoff=AT_ONCE, max_attempts=2)
async def is_observed(context):
    output = (await observed.run("Add.")).output
    if context.attempt == 1:
        raise AGAIN
    return output
