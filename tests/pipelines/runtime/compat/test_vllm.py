from pipelines.runtime.compat import vllm as compat


def test_every_private_name_is_there() -> None:
    assert issubclass(compat.engine_dead_error(), Exception)
    assert compat.offline_usage().value == "LLM_CLASS"
    assert callable(compat.stat_logger_base().record)
    assert issubclass(compat.ray_stat_logger(), compat.stat_logger_base())
    assert {64, 128} <= set(compat.cpu_attention_head_sizes())
    assert callable(compat.executor_in_scheduler().collective_rpc)


def test_flat_logprobs_begin_with_the_sampled_token() -> None:
    from vllm.logprobs import FlatLogprobs

    theirs = FlatLogprobs()
    for position in ([7, 7, 3], [5, 9, 3]):
        theirs.append_fast(position, [-0.1, -0.1, -2.0], (1, 1, 2), [None] * 3)
    ours = compat.flat_logprobs(theirs)
    assert (ours.token_ids, ours.logprobs) == ([7, 7, 3, 5, 9, 3], [-0.1, -0.1, -2.0] * 2)
