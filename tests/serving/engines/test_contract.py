"""What every engine promises, whatever it runs on: padded batches, and vLLM. Fakes take the place of the models."""

import asyncio
import math

import pytest

from pipelines.students.decoding import Family, GenerationRequest
from serving.engines import vllm
from serving.engines.base import Engine
from serving.messages import Failed, Piece, Question, TextRequest, TextToken, TooLong
from tests.support.fake_engines import FIRST, LOG_PROBS, Fake, engine_over_fake
from tests.support.waiting import until

pytestmark = pytest.mark.anyio
REQUEST = GenerationRequest("[label] 4 apples", 4)
TEXT = TextRequest("4 apples", raw=False)


@pytest.fixture(params=["encoder-decoder", "decoder-only"])
def made(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Engine, Fake]:
    family: Family = request.param
    if family == "decoder-only":
        pytest.importorskip("vllm")
        monkeypatch.setattr(vllm, "_PROBE_S", 0.2)
    return engine_over_fake(family, max_batch_size=8, max_new_tokens=8)


async def test_an_answer_has_label_and_rationale(made: tuple[Engine, Fake]) -> None:
    engine, fake = made
    text = fake.tokenizer.decode([FIRST])
    for rationale in (False, True):
        reply = await engine.answer(Question("4 apples", rationale=rationale))
        assert (reply.engine, reply.answer.text) == (engine.name, text.strip())
        assert reply.answer.confidence == pytest.approx(math.exp(sum(LOG_PROBS)))
        assert (reply.rationale is not None) == rationale
    assert len(fake.max_tokens) == 3


async def test_a_stream_sends_the_text_of_write(made: tuple[Engine, Fake]) -> None:
    engine, fake = made
    whole = await engine.write(TEXT)
    pieces = [piece async for piece in engine.stream(TEXT)]
    texts = [piece.text for piece in pieces if isinstance(piece, Piece)]
    assert len(texts) == len(pieces)
    assert "".join(texts) == whole.text == fake.tokenizer.decode([5])
    for last in (pieces[-1], whole):
        assert (last.finish_reason, last.engine, last.output_tokens) == ("stop", engine.name, 2)


async def test_turns_need_a_chat_template(made: tuple[Engine, Fake]) -> None:
    turns = TextRequest("4 apples", raw=False, turns=(("system", "Be short."),))
    refused = Failed(refused="it was trained without a chat template")
    assert await made[0].write(turns) == refused
    assert [piece async for piece in made[0].stream(turns)] == [refused]


async def test_a_stream_sends_each_piece_at_once(made: tuple[Engine, Fake]) -> None:
    engine, fake = made
    fake.hold()
    pieces = engine.stream(TEXT)
    assert await anext(pieces)
    await pieces.aclose()
    await until(lambda: all(fake.abandoned()))
    fake.release()
    assert (await engine.complete(REQUEST)).finish_reason == "stop"


async def test_a_stop_string_ends_the_text_at_once(made: tuple[Engine, Fake]) -> None:
    engine, fake = made
    fake.hold()
    piece = await engine.write(TextRequest("4 apples", raw=False, stop=(fake.tokenizer.decode([FIRST]),)))
    assert (piece.text, piece.finish_reason) == ("", "stop")
    assert all(fake.abandoned())
    fake.release()


async def test_a_text_has_its_tokens(made: tuple[Engine, Fake]) -> None:
    engine, fake = made
    text = fake.tokenizer.decode([FIRST])
    for stop, tokens in (((), (TextToken(text, LOG_PROBS[0]),)), ((text,), ())):
        piece = await engine.write(TextRequest("4 apples", raw=False, stop=stop, log_probs=True))
        assert (piece.text, piece.tokens) == ("".join(token.text for token in tokens), tokens)


async def test_a_choice_is_a_constrained_label(made: tuple[Engine, Fake]) -> None:
    """It is returned as given, and the student can write it: its text has at most 32 tokens."""
    engine, fake = made
    text = fake.tokenizer.decode([FIRST])
    # The fake student writes no other label than FIRST.
    for choice in (text, f" {text}") if isinstance(engine, vllm.VllmEngine) else (text,):
        piece = await engine.write(TextRequest("4 apples", raw=False, choices=(choice, f"{choice}{text}")))
        assert piece.text.startswith(choice)
    assert fake.max_tokens[0] == 3, "as long as the longest choice"
    fake.max_tokens.clear()
    long = TextRequest("4 apples", raw=False, choices=("no", "\u00e9" * 20))
    assert await engine.write(long) == TooLong(41, 32, written=True)
    assert fake.max_tokens == []


async def test_inputs_and_texts_have_a_longest_length(made: tuple[Engine, Fake]) -> None:
    engine, fake = made
    long = "apples " * 200
    request = TextRequest(long, raw=True)
    outcomes = [await engine.answer(Question(long)), await engine.write(request), await anext(engine.stream(request))]
    for outcome in outcomes:
        assert isinstance(outcome, TooLong)
        assert outcome.tokens > outcome.limit == 64
    assert fake.max_tokens == []
    engine, fake = made
    for tokens in (10**30, 1_000_000, 5, None):
        await engine.write(TextRequest("[label] 4 apples", raw=True, max_tokens=tokens))
    # The card says that the student was trained to write 32.
    assert fake.max_tokens == [32, 32, 5, 8]


async def test_a_cancelled_call_affects_no_other(made: tuple[Engine, Fake]) -> None:
    engine, fake = made
    fake.hold()
    cancelled, stays = (asyncio.ensure_future(engine.complete(REQUEST)) for _ in range(2))
    await until(lambda: len(fake.max_tokens) == 2)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert sorted(fake.abandoned()) == [False, True]
    fake.release()
    assert (await stays).finish_reason == "stop"
    assert (await engine.complete(REQUEST)).ids == (FIRST, fake.tokenizer.eos_token_id)


async def test_callers_get_the_error_of_the_engine(made: tuple[Engine, Fake]) -> None:
    engine, fake = made
    await engine.check_health()
    fake.error = ValueError("this prompt")  # it answers again afterwards
    errors = await asyncio.gather(*(engine.complete(REQUEST) for _ in range(2)), return_exceptions=True)
    assert [str(error) for error in errors] == ["this prompt"] * 2
    with pytest.raises(ValueError, match="this prompt"):
        _ = [piece async for piece in engine.stream(TEXT)]
    fake.error = None
    assert (await engine.complete(REQUEST)).finish_reason == "stop"


async def test_the_health_check_finds_a_hang(made: tuple[Engine, Fake]) -> None:
    engine, fake = made
    await engine.check_health()
    await engine.complete(REQUEST)
    await engine.check_health()
    fake.hold()
    hanging = asyncio.ensure_future(engine.complete(REQUEST))

    async def check_until_unhealthy() -> None:
        while True:
            await engine.check_health()
            await asyncio.sleep(0.01)

    with pytest.raises(RuntimeError, match="generated no token for"):
        await asyncio.wait_for(check_until_unhealthy(), 10.0)
    fake.release()
    await hanging
    await engine.check_health()


@pytest.mark.parametrize("number", [math.nan, -math.inf])
async def test_damaged_weights_start_no_replica(made: tuple[Engine, Fake], number: float) -> None:
    """Serve asks for the health before it sends requests. What fails later costs its own input."""
    engine, fake = made
    fake.log_probs = (number, -0.1)
    with pytest.raises(RuntimeError, match=f"student sums: .* must be numbers, and are {number}.* weights are damaged"):
        await engine.check_health()
    with pytest.raises(RuntimeError, match="must be numbers"):
        await engine.answer(Question("4 apples"))
    fake.log_probs = LOG_PROBS
    await engine.check_health()
    for _ in range(2):
        await engine.close()
