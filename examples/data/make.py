"""Make the small data of the examples anew: sums, conversations, stories. Needs reasoning-gym.

python examples/data/make.py
"""

import json
import random
import re
from pathlib import Path

from nas_engine.data.made import chain_sum, family

HERE = Path(__file__).parent
OPENINGS = ("Hi! Can you add for me? {}", "What is {}?", "Quickly: {}", "Please work out {}.")


def sums(count: int) -> list[tuple[str, str, int]]:
    """Sums, their steps and their results."""
    made = []
    for question in chain_sum(count, seed=11):
        text = re.search(r"\d[\d +-]*\d|\d", question.question)
        assert text is not None
        first, *rest = re.findall(r"[+-]? ?\d+", text[0])
        total, steps = int(first), []
        for term in rest:
            value = int(term.replace(" ", ""))
            steps.append(f"{total} {'-' if value < 0 else '+'} {abs(value)} = {total + value}")
            total += value
        made.append((text[0], "\n".join(steps), total))
    return made


def main() -> None:
    """Write the three files."""
    rng = random.Random(0)
    made = sums(900)
    with (HERE / "sums.jsonl").open("w", encoding="utf-8") as file:
        for text, steps, total in made[:600]:
            file.write(json.dumps({"question": f"What is {text}?", "answer": f"{steps}\n#### {total}"}) + "\n")
    with (HERE / "chats.jsonl").open("w", encoding="utf-8") as file:
        for i in range(600, 900, 2):
            messages = []
            for text, _, total in made[i : i + 2]:
                messages.append({"role": "user", "content": rng.choice(OPENINGS).format(text)})
                messages.append({"role": "assistant", "content": f"{text} is {total}."})
            file.write(json.dumps({"messages": messages}) + "\n")
    stories = [" ".join(question.question.split()) for question in family(300, seed=5)]
    (HERE / "stories.txt").write_text("\n".join(stories) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
