"""Tiny students that learn two answers in a test."""

from typing import Any

from pipelines.methods import Part, prompt_of
from pipelines.students.decoding import Family, Student, encode_prompt, encode_target
from tests.support.tiny_students import tiny_model, tiny_tokenizer


def student_of(family: Family, method: str = "step-by-step") -> Student:
    tokenizer = tiny_tokenizer(family)
    return Student(tiny_model(family, len(tokenizer)), tokenizer, method=method, max_input_tokens=64)


def target_logits(student: Student, prompt: list[int], target: list[int]) -> Any:
    """Logits that predict each target token, (len(target), vocabulary)."""
    import torch

    if student.family == "encoder-decoder":
        return student.model(input_ids=torch.tensor([prompt]), labels=torch.tensor([target])).logits[0]
    return student.model(input_ids=torch.tensor([[*prompt, *target]])).logits[0, len(prompt) - 1 : -1]


def teach_two(student: Student, part: Part, text: str, likely: str, other: str) -> None:
    """Teach two answers to a text. The student then generates the first one with a probability of about 0.7."""
    import torch

    prompt = encode_prompt(student.tokenizer, student.family, prompt_of(student.method, part, text))
    # With a higher learning rate, rounding on some CPUs lets the student diverge for good.
    optimizer = torch.optim.Adam(student.model.parameters(), lr=1e-3)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads slow tiny models down on a busy machine
    targets = [encode_target(student.tokenizer, answer) for answer in (likely, other)]
    for step in range(400):
        all_logits = [target_logits(student, prompt, target) for target in targets]
        # The number of steps differs between CPUs.
        probabilities = all_logits[0].detach().softmax(-1)[range(len(targets[0])), targets[0]]
        if step >= 40 and 0.6 < float(probabilities.min()) < 0.8:
            break
        for logits, target, share in zip(all_logits, targets, (0.7, 0.3), strict=True):
            # A sum instead of a mean, so that the shares apply to the differing tokens, independent of the answers' lengths.
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(target), reduction="sum")
            (share * loss).backward()
        torch.nn.utils.clip_grad_norm_(student.model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    else:
        raise AssertionError(f"the student has not learned {likely!r}")
    torch.set_num_threads(threads)
