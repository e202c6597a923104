"""Packed rows of questions: every option reads its own prompt, and what several begin with stands once."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from evaluators.multiple_choice.packing import TokenizedQuestion, batches, tree_mask
from evaluators.multiple_choice.token_tree import TokenTree

tokens = st.lists(st.integers(0, 3), min_size=1, max_size=6).map(tuple)
questions = st.lists(
    st.builds(TokenizedQuestion, tokens, st.lists(tokens, min_size=1, max_size=4).map(tuple)), min_size=1, max_size=6
).map(tuple)


@given(st.lists(tokens, min_size=1, max_size=8))
def test_tree_holds_every_prefix_once_and_each_token_continues_its_own(sequences: list[tuple[int, ...]]) -> None:
    tree = TokenTree()
    last = {sequence: tree.grow(0, sequence)[-1] for sequence in sequences}
    prefixes = {sequence[:k] for sequence in sequences for k in range(1, len(sequence) + 1)}
    assert len(tree) == len(prefixes)
    line = tree.laid_out()
    for sequence, node in last.items():
        place = line.nodes.index(node)
        continued = [i for i in range(place + 1) if line.ends[i] > place]
        assert tuple(line.tokens[i] for i in continued) == sequence
        assert [line.positions[i] for i in continued] == list(range(len(sequence)))


@given(questions, st.sampled_from([0, 8, 128]), st.sampled_from([1, 16, 512]))
def test_every_option_token_is_predicted_by_what_stands_before_it(asked, row_tokens: int, budget: int) -> None:
    found: dict[int, list[tuple[tuple[int, ...], int]]] = {}
    for batch in batches(asked, budget, row_tokens):
        sees = (tree_mask(batch, torch.float32) == 0).squeeze(1).flatten(0, 1)  # (rows times tokens, tokens)
        ids = batch.input_ids.repeat_interleave(batch.input_ids.shape[1], dim=0)
        for source, target, option in zip(batch.sources, batch.targets, batch.options, strict=True):
            place = batch.scored[source]
            found.setdefault(int(option), []).append((tuple(ids[place][sees[place]].tolist()), int(target)))
        assert len(set(batch.scored.tolist())) == len(batch.scored)
    expected = [(q.prompt, option) for q in asked for option in q.options]
    assert len(found) == len(expected)
    for i, (prompt, option) in enumerate(expected):
        assert found[i] == [(prompt + option[:k], option[k]) for k in range(len(option))]


def test_questions_of_a_row_share_what_they_begin_with() -> None:
    examples = tuple(range(100))
    asked = tuple(TokenizedQuestion((*examples, 200 + i), ((1, 2), (1, 3), (4, 5))) for i in range(5))
    (batch,) = batches(asked, 2048)
    assert batch.no_padding.sum() == 100 + 5 * (1 + 2)  # the examples, and of each question its own and two options
