"""Package, README and docs use the field's words (README, Words), one word for one thing.

`python tests/unit/test_words.py` prints the lines that do not.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
ENDINGS = (".py", ".js", ".html", ".css", ".md")
# They list former names, so that these go on working.
NAMES_OF_BEFORE = ("former_modules.py",)

# Not former words: files of 0.1, titles, a tag of TensorBoard.
KEPT = re.compile(
    r".do.: .mark.|['\"]marks?['\"]|\.marks\.json|(forests and|model of) saliency"
    r"|told_apart"
)

# A pattern of paths, and the words that nothing there should say. Parts of names count as words.
CLICKS = "maskfeat/(interactive|app)/|README|docs/"
WORDS = {
    "": [
        *("atoms?", "AtomGraph", "MergeTree", "judge[sd]?", "judging", "doubts?", "remerged"),
        *("dials?", "salienc(y|ies)", "slivers?", "LayeredMasks", "barred", "torn"),
        *("obeying", "SeedForest", "CutNetwork", "smoothness", "robots?", "pictures?"),
        *("photographs?", "spread", "border[ _]contrasts?", "told", "said", "speaks?", "voices?"),
        *("odds", "of which", "so many", "in their order", "order is nothing"),
    ],
    CLICKS: ["marks?", "marked", "games?", "reach_(px|of|and)", "(with|its|their) reach"],
    "maskfeat/(?!app/page)|README|docs/": ["strokes?"],  # a canvas has strokes
    "maskfeat/(interactive|app)/": ["scenes?"],
    "maskfeat/(interactive|evaluate|labeling)/": ["(?<=a |e |h |t )round(?!er)"],
    "maskfeat/interactive/": [
        "hints?",
        "(?<!hidden )(?<!linear )layers?",
        r"(?<!\w)held(?![_ -](out|folder))",
        "measures",
    ],
    "maskfeat/labeling/": [
        *("sketch(es)?", "sources?", "marks?", "games?"),
        r"(?<!\w)held(?![_ -](out|folder))",
    ],
    "maskfeat/segment/": ["levels?", "marks?"],
    "maskfeat/data/order/": [
        *("stretch(es)?", "laps?", "standings?", "deal(s|t)?", "(?<!in its )(?<!in )places?"),
        "(?<!in )turns?",
    ],
}


def _pattern(words: list[str]) -> re.Pattern[str]:
    # A word may be in camel case or snake case, but not within another word.
    both = "|".join(f"[{w[0].upper()}{w[0]}]{w[1:]}" if w[0].isalpha() else w for w in words)
    return re.compile(rf"(?<![A-Za-z])(?:{both})(?![a-z])")


RULES = [(re.compile(room), _pattern(words)) for room, words in WORDS.items()]


def former_words(path: str, text: str) -> list[str]:
    """The words of a file that have another name today, lower case, sorted, each once."""
    found = set[str]()
    for line in text.splitlines():
        if "renamed" in line or "former" in line.lower():  # aliases, which say so
            continue
        if path == "README.md" and line.startswith("| ") and line.count("|") == 4:
            line = line.rsplit("|", 2)[0]  # without the column "formerly"
        line = KEPT.sub("", line)
        for room, words in RULES:
            if room.match(path):
                found.update(match.group().lower() for match in words.finditer(line))
    return sorted(found)


def files_with_former_words() -> dict[str, list[str]]:
    """The former words of each file that has some."""
    listed = ["git", "ls-files", "--", "maskfeat", "README.md", "docs"]
    paths = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    texts = {
        path: (REPOSITORY / path).read_text(encoding="utf-8")
        for path in paths.stdout.split()
        if path.endswith(ENDINGS) and not path.endswith(NAMES_OF_BEFORE)
    }
    return {path: words for path, text in texts.items() if (words := former_words(path, text))}


def test_former_words_are_found_in_names_and_text_but_not_within_words() -> None:
    found = former_words("maskfeat/x.py", "def atom_of(rgb):  # Robots, anatomy")
    assert found == ["atom", "robots"]
    assert former_words("maskfeat/interactive/x.py", "x.round(); the next round") == ["round"]
    assert former_words("maskfeat/data/order/x.py", "in turn, the turn of a reader") == ["turn"]
    assert former_words("README.md", "| superpixel | a region | atom |") == []


def test_no_file_has_a_former_word() -> None:
    assert files_with_former_words() == {}


if __name__ == "__main__":
    for file in files_with_former_words():
        for number, line in enumerate((REPOSITORY / file).read_text().splitlines(), start=1):
            if words := former_words(file, line):
                print(f"{file}:{number}: {', '.join(words)}: {line.strip()}")
