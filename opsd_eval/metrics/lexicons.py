"""Epistemic markers by language, category and surface form.

Categories: ``hedge`` (weakened claims), ``interrupt`` (self-interruption), ``branch`` (another route), ``verify``
(checking), ``uncertainty`` (saying that one does not know). An entry is a word, or ``name = regular expression`` of
its forms in lower-case text.
"""

from __future__ import annotations

CATEGORIES = ("hedge", "interrupt", "branch", "verify", "uncertainty")

#: The ten substrings of the published counter, in its order. Source: arXiv 2603.24472.
KIM_WORDS = (
    "wait", "hmm", "perhaps", "maybe", "actually", "alternatively", "seems", "might", "likely", "check",
)  # fmt: skip

#: Languages whose words stand between spaces or punctuation.
SPACED: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "hedge": ("perhaps", "maybe", "might", "likely", "seems = seems?", "possibly", "probably", "presumably"),
        "interrupt": ("wait", "hmm = hm{2,8}", "actually", "hold on", "oops"),
        "branch": (
            "alternatively", "another way = another (?:way|approach|method|idea)", "instead", "on the other hand",
            "different way = different (?:way|approach|method)",
        ),
        "verify": ("double-check = double[- ]check(?:ing|ed)?", "check = check(?:s|ing|ed)?",
                   "verify = verif(?:y|ies|ied|ying)", "confirm = confirm(?:s|ed|ing)?"),
        "uncertainty": (
            "not sure = not (?:entirely |quite |completely )?(?:sure|certain)", "unsure", "uncertain",
            "don't know = do(?:n't|n\u2019t| not) know", "confused = i(?:'m| am) confused", "unclear",
        ),
    },
    "es": {
        "hedge": ("quizás = quizás?", "tal vez", "probablemente", "posiblemente", "parece", "podría"),
        "interrupt": ("espera", "un momento", "en realidad", "mmm = h?mm+"),
        "branch": ("alternativamente", "otra forma = otra (?:forma|manera)", "en cambio"),
        "verify": ("comprobar = comprob(?:ar|emos|amos|ando)", "verificar = verifi(?:car|camos|cando|quemos)",
                   "revisar = revis(?:ar|emos|ando)"),
        "uncertainty": ("no seguro = no est(?:oy|á|amos) (?:segur[oa]s?|claro)", "no sé"),
    },
    "fr": {
        "hedge": ("peut-être", "probablement", "semble", "pourrait", "sans doute"),
        "interrupt": ("attends = attend(?:s|ez)", "en fait", "hmm = hmm+"),
        "branch": ("alternativement", "autre façon = une autre (?:façon|méthode|approche)", "plutôt"),
        "verify": ("vérifier = vérifi(?:er|ons|ez|e)", "contrôler = contrôl(?:er|ons|ez)"),
        "uncertainty": ("pas sûr = pas (?:sûre?|certaine?)", "je ne sais pas"),
    },
    "de": {
        "hedge": ("vielleicht", "möglicherweise", "wahrscheinlich", "scheint", "könnte", "vermutlich"),
        "interrupt": ("warte", "moment", "eigentlich", "hmm = hmm+"),
        "branch": ("alternativ", "stattdessen", "anderer weg = (?:ein anderer (?:weg|ansatz)|eine andere methode)"),
        "verify": ("prüfen = (?:über|nach)?prüfen?", "kontrollieren", "verifizieren"),
        "uncertainty": ("nicht sicher", "unsicher", "weiß nicht", "unklar"),
    },
}

#: Languages written without spaces between words.
UNSPACED: dict[str, dict[str, tuple[str, ...]]] = {
    "zh": {
        "hedge": ("可能 = (?<!不)可能", "也许 = 也[许許]", "或许 = 或[许許]", "似乎", "大概", "好像"),
        "interrupt": ("等等 = 等一下|等等", "不对 = 不[对對]", "其实 = 其[实實]", "嗯"),
        "branch": ("或者", "另外", "另一种 = 另一[种種]", "换一种 = [换換](?:一[种種]|个)"),
        "verify": ("检查 = [检檢]查", "验证 = [验驗][证證]", "核对 = 核[对對]", "重新", "确认 = [确確][认認]"),
        "uncertainty": ("不确定 = 不[确確]定", "不清楚 = 不太?清楚", "不知道"),
    },
}
