"""Sequences of tokens that share what they begin with."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Layout(NamedTuple):
    """A tree's tokens in one line, every token before those that continue it.

    Args:
        nodes: of the tree.
        tokens: their ids.
        positions: of each in its sequence, from 0 on.
        ends: of each, the place in the line where what continues it ends. So a token continues those before it
            whose end lies behind it, and no others.
    """

    nodes: list[int]
    tokens: list[int]
    positions: list[int]
    ends: list[int]


class TokenTree:
    """A tree of tokens; node 0 is its root, where sequences begin."""

    def __init__(self) -> None:
        self._tokens, self._parents, self._depths = [-1], [-1], [0]
        self._children: list[dict[int, int]] = [{}]

    def __len__(self) -> int:
        """Tokens of the tree."""
        return len(self._tokens) - 1

    def grow(self, node: int, tokens: Iterable[int]) -> list[int]:
        """Continue `node` by `tokens`; the nodes that they lead to, new or there before."""
        path = []
        for token in tokens:
            parent, node = node, self._children[node].setdefault(token, len(self._tokens))
            if node == len(self._tokens):
                self._tokens.append(token)
                self._parents.append(parent)
                self._depths.append(self._depths[parent] + 1)
                self._children.append({})
            path.append(node)
        return path

    def laid_out(self) -> Layout:
        """All tokens depth first, branches in the order in which they grew."""
        order, stack = [], [0]
        while stack:
            node = stack.pop()
            order.append(node)
            stack.extend(reversed(self._children[node].values()))
        sizes = [1] * len(order)
        for node in reversed(order[1:]):
            sizes[self._parents[node]] += sizes[node]
        nodes = order[1:]
        return Layout(
            nodes,
            [self._tokens[node] for node in nodes],
            [self._depths[node] - 1 for node in nodes],
            [place + sizes[node] for place, node in enumerate(nodes)],
        )
