"""What a column's name says of its content.

In: a name, as people write them (`system_prompt`, `userQuestion`, `chosen-rating`). Out: one of the kinds below. The
last word decides first, as in English: a `prompt_id` is an id, a `question_type` a type, an `answer_context` a context.
"""

import re
from functools import cache

FREE, TOPIC, ANSWER, PROMPT, CONTEXT = "free", "topic", "answer", "prompt", "context"
"""ids, sources, scores; a task or a topic, which is a word or all that is asked; answers and what is said of them; what
is asked; what stands around it (a system turn, documents, tools)"""

MAYBE, MEDIA, OTHER = "maybe", "media", "other"
"""perhaps a part of a prompt; images and sound; no idea"""

_FREE = frozenset(
    """
    id ids idx index indices uid uuid guid hash md5 sha fingerprint key number num nr no count counts n len length
    lengths size tokens position rank ranks order seed source sources src origin dataset datasets data split subset
    subsets fold partition domain domains category categories subcategory type types kind tag tags skill skills
    genre style aspect level difficulty language languages lang locale model models llm engine generator version
    name names author annotator annotators worker workers labeler rater url urls uri link links path file filename
    license date time timestamp created updated at utc status state flag flags quality grade tier round batch group
    cluster role roles format config configs
    """.split()
)
_TOPIC = frozenset({"topic", "topics", "subject", "subjects", "task", "tasks"})
_SCORES = frozenset(
    """
    score scores rating ratings reward rewards margin margins prob probs probability probabilities logprob logprobs logp
    logps likelihood confidence weight weights loss vote votes upvotes downvotes elo accuracy correctness helpfulness
    harmlessness coherence complexity verbosity toxicity is has num
    """.split()
)
_ANSWER = frozenset(
    """
    answer answers response responses reply replies completion completions output outputs target targets solution
    solutions reference references gold truth groundtruth chosen rejected accepted generation generations generated
    candidate candidates prediction predictions rationale rationales explanation explanations reason reasons reasoning
    thought thoughts thinking cot critique critiques feedback comment comments review reviews judgement judgements
    judgment judgments verdict evaluation evaluations assessment justification annotation annotations analysis note
    notes label labels winner preference preferences choice error errors edit edits correction corrections revision
    rubric rubrics criteria principle principles hint hints step steps
    """.split()
)
_CONTEXT_STEMS = (
    *("system", "context", "conversation", "dialog", "messag", "histor", "passage", "document", "article", "premise"),
    *("utterance", "paragraph", "fewshot", "preprompt", "retriev"),
)
_CONTEXT = frozenset(
    """
    conv convs ctx chat chats turn turns doc docs post posts selftext tool tools function functions excerpt evidence
    knowledge persona preamble demonstration demonstrations exemplars shot shots hypothesis situation trajectory sys
    memory memories search
    """.split()
)
_PROMPT_STEMS = ("prompt", "question", "instruct", "input", "quer", "problem")
_PROMPT = frozenset({"request", "requests", "exercise", "puzzle", "riddle", "theorem"})
_MAYBE = frozenset(
    """
    user human title body text texts content contents sentence sentences statement background story scenario code
    caption table schema goal description choices options example examples constraint constraints guideline guidelines
    prefix suffix setup
    """.split()
)
_MEDIA = frozenset(
    """
    image images img imgs picture pictures photo photos pixel screenshot screenshots audio audios sound speech wav video
    videos clip frame frames
    """.split()
)
_OF_MEDIA = frozenset({"url", "urls", "uri", "path", "paths", "file", "files", "filename"})
_ID_WITHOUT_GAP = re.compile(rf"((?:{'|'.join((*_CONTEXT_STEMS, *_PROMPT_STEMS))})\w*?)(ids?|idx)")


@cache
def kind_of_name(name: str) -> str:
    """
    >>> [kind_of_name(name) for name in ("system_prompt", "prompt_id", "chosen-rating", "rationale", "image_url")]
    ['context', 'free', 'free', 'answer', 'media']
    >>> [kind_of_name(name) for name in ("userQuestion", "answer_context", "prompt_response", "body", "foo")]
    ['prompt', 'context', 'answer', 'maybe', 'other']
    """
    words = _words(name)
    last = words[-1] if words else ""
    if _MEDIA & {*words} and (last not in _FREE or last in _OF_MEDIA):
        return MEDIA
    if last in _FREE or _SCORES & {*words}:
        return FREE
    if last in _TOPIC:
        return TOPIC
    if last in _ANSWER:
        return ANSWER
    if _CONTEXT & {*words} or any(stem in word for stem in _CONTEXT_STEMS for word in words):
        return CONTEXT
    if _PROMPT & {*words} or any(stem in word for stem in _PROMPT_STEMS for word in words):
        return PROMPT
    if _ANSWER & {*words}:
        return ANSWER
    return MAYBE if _MAYBE & {*words} else OTHER


def _words(name: str) -> list[str]:
    """
    >>> _words("systemPrompt2"), _words("PROMPT-id"), _words("promptid")
    (['system', 'prompt'], ['prompt', 'id'], ['prompt', 'id'])
    """
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[^\W\d_a-zA-Z]+", name)]
    if words and (joined := _ID_WITHOUT_GAP.fullmatch(words[-1])):
        words[-1:] = joined.groups()
    return words
