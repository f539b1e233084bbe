#!/usr/bin/env python3
"""Goldens of src/text: a small tokenizer in UMT5's layout, token ids and cleaned prompts.

    .deps/venv/bin/python tools/golden/text.py [--out tests/golden/text]

tokenizer/          tokenizer.json, spiece.model, tokenizer_config.json: a unigram model trained here
vectors.json        prompts and their ids by the tokenizers library, also with other components
clean.json          prompts as diffusers' prompt_clean leaves them (ftfy, html, re)
*.manifest.json     how each was made

`train_tokenizer(folder, vocab_size)` serves tiny models too.
"""

import argparse
import base64
import hashlib
import html
import importlib.metadata
import io
import json
import platform
import random
import re
import struct
import tempfile
from pathlib import Path

import ftfy
import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

SEED = 20251
MARK = "\u2581"  # stands for a space in pieces
HANGUL_LETTERS = [range(0x1100, 0x1200), range(0x3130, 0x3190), range(0x3200, 0x3280),
                  range(0xFFA0, 0xFFDD)]  # conjoining, compatible, circled, half-width

# --- corpus ------------------------------------------------------------------------------------

SENTENCES = """
A small red circle moves slowly to the upper left on a plain background.
A cat walks on the grass, realistic style, soft morning light.
Two anthropomorphic cats in comfy boxing gear fight intensely on a spotlighted stage.
The camera follows a white vintage car as it speeds up a steep dirt road.
Waves crash against the rocks while seagulls fly over the lighthouse at sunset.
Close-up of a woman's face, her hair blowing in the wind, shallow depth of field.
An astronaut rides a horse through a field of sunflowers, 35mm film, 4K.
Slow motion: a drop of water falls into a glass; ripples spread outwards.
Bright tones, overexposed, static, blurred details, subtitles, worst quality, low quality.
Ein kleiner Junge läuft mit seinem Hund über die grüne Wiese hinter dem Haus.
Die alte Brücke über den Fluss glänzt im Licht der untergehenden Sonne.
Un chat noir dort sur le rebord de la fenêtre pendant qu'il neige dehors.
La caméra s'élève lentement au-dessus de la forêt enveloppée de brume.
Una niña corre por la playa al atardecer mientras las olas rompen suavemente.
El tren cruza el puente de piedra y desaparece entre las montañas nevadas.
Um barco à vela atravessa a baía sob um céu cheio de nuvens douradas.
Une vieille femme boit un café près de la cheminée, dessin animé.
Il gatto arancione salta sul tavolo e rovescia un bicchiere d'acqua.
Een oude molen draait langzaam in de wind boven de tulpenvelden.
En röd bil kör längs kusten medan solen går ner över havet.
Stary rower stoi oparty o ceglaną ścianę, pada deszcz, świecą latarnie.
Küçük bir kız şehrin ışıklarına bakarak köprüde yürüyor.
Một con mèo trắng đang ngủ trên chiếc ghế cạnh cửa sổ.
Маленький красный круг медленно движется влево вверх на простом фоне.
Кошка идёт по траве, мягкий утренний свет, реалистичный стиль.
Старый поезд едет через заснеженный лес, из трубы поднимается дым.
Дівчина читає книжку під великим дубом біля річки.
Ένα μικρό κορίτσι τρέχει στην παραλία ενώ ο ήλιος δύει.
Η παλιά γέφυρα λάμπει στο φως του δειλινού πάνω από το ποτάμι.
一只猫在草地上行走，写实风格，柔和的晨光。
镜头跟随一辆白色的老式汽车，沿着陡峭的山路快速行驶。
小女孩在海边奔跑，夕阳西下，海浪轻轻拍打着沙滩。
色调艳丽，过曝，静态，细节模糊不清，字幕，最差质量，低质量。
一艘帆船穿過海灣，天空佈滿金色的雲朵。
小さな赤い円が無地の背景の左上へゆっくりと動く。
猫が草の上を歩いている、リアルなスタイル、柔らかい朝の光。
カメラは白いビンテージカーを追いかけ、山道を走る。
桜の花びらが風に舞い、古い寺の前を人々が歩く。
작은 빨간 원이 단순한 배경에서 왼쪽 위로 천천히 움직인다.
고양이가 풀밭 위를 걷고 있다, 사실적인 스타일, 부드러운 아침 햇살.
한 소녀가 해 질 녘 바닷가를 달리고 파도가 잔잔하게 친다.
قطة تمشي على العشب في ضوء الصباح الناعم.
قطار قديم يعبر الجسر الحجري ويختفي بين الجبال.
גבר זקן הולך עם כלבו לאורך החוף בשקיעה.
חתול קטן ישן על אדן החלון בזמן שיורד שלג.
एक छोटी लड़की समुद्र के किनारे दौड़ रही है और सूरज डूब रहा है।
बिल्ली घास पर चल रही है, सुबह की कोमल रोशनी।
একটি বিড়াল ঘাসের উপর হাঁটছে, সকালের নরম আলো।
একটি পুরানো ট্রেন সেতু পার হয়ে পাহাড়ের মধ্যে যায়।
ஒரு பூனை புல்வெளியில் நடக்கிறது, மென்மையான காலை ஒளி.
பழைய ரயில் பாலத்தைக் கடந்து மலைகளுக்குள் செல்கிறது.
แมวตัวหนึ่งเดินบนสนามหญ้าในแสงยามเช้า
รถไฟเก่าแล่นผ่านสะพานหินและหายไปในภูเขา
კატა დადის ბალახზე რბილ დილის შუქზე.
ძველი მატარებელი გადადის ქვის ხიდზე მთებს შორის.
Կատուն քայլում է խոտի վրայով առավոտյան մեղմ լույսի ներքո։
Հին գնացքը անցնում է քարե կամրջով լեռների միջև։
ድመት በሣር ላይ በጠዋት ብርሃን ይራመዳል።
አሮጌ ባቡር በድንጋይ ድልድይ ላይ ያልፋል።
""".strip().splitlines()

WORDS = {
    "quality": "realistic cinematic dreamy colourful dark bright detailed grainy soft vivid calm",
    "subject": "cat dog horse fox dancer robot astronaut painter child dragon ship train car bird",
    "verb": "walks runs jumps flies swims dances rolls falls turns rises sleeps drifts explodes",
    "place": "beach forest city desert kitchen street mountain river castle garden moon ocean room",
    "time": "morning sunset midnight winter summer rain snow fog storm dawn autumn noon",
    "camera": "zoom pan tilt tracking handheld aerial close-up wide-angle time-lapse slow-motion",
    "shape": "circle square triangle star ring cross hexagon line spiral cube sphere",
    "colour": "red green blue yellow white black orange purple pink brown grey golden silver",
    "place2": "upper-left upper-right lower-left lower-right centre top bottom left right",
}


def corpus(seed):
    """The sentences above, and prompts put together from the word lists."""
    rng = random.Random(seed)
    words = {key: value.split() for key, value in WORDS.items()}

    def pick(key):
        return rng.choice(words[key])

    lines = SENTENCES * 3
    for _ in range(1500):
        lines.append(
            f"A {pick('quality')} {pick('subject')} {pick('verb')} in the {pick('place')} at "
            f"{pick('time')}, {pick('camera')} shot, {rng.randrange(1, 4000)} frames."
        )
        lines.append(
            f"a {pick('colour')} {pick('shape')} {pick('verb')} from the {pick('place2')} to the "
            f"{pick('place2')} on a {pick('colour')} background"
        )
    lines += blends(rng, 4000)
    rng.shuffle(lines)
    return lines


def blends(rng, count):
    """Lines of words made of halves of two words that begin in the same block of characters."""
    blocks = {}
    for word in " ".join(SENTENCES).split():
        blocks.setdefault(ord(word[0]) >> 8, []).append(word)
    pools = [pool for pool in blocks.values() if len(pool) > 4]
    out = []
    for _ in range(count):
        pool = rng.choice(pools)
        words = []
        for _ in range(5):
            head, tail = rng.choice(pool), rng.choice(pool)
            words.append(head[: (len(head) + 1) // 2] + tail[len(tail) // 2 :])
        out.append(" ".join(words))
    return out


# --- the tokenizer -----------------------------------------------------------------------------


def spm_train(lines, vocab_size, **options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=out, vocab_size=vocab_size,
        hard_vocab_limit=False, model_type="unigram", character_coverage=1.0,
        pad_id=0, eos_id=1, bos_id=2, unk_id=3, num_threads=1, shuffle_input_sentence=False,
        train_extremely_large_corpus=False, minloglevel=2, **options)
    return out.getvalue()


def charsmap_rules(blob):
    """{sequence of code points: replacement} of a precompiled_charsmap."""
    trie_bytes = struct.unpack_from("<I", blob)[0]
    units = struct.unpack_from(f"<{trie_bytes // 4}I", blob, 4)
    replacements = blob[4 + trie_bytes:]

    def offset(unit):
        return (unit >> 10) << ((unit & 0x200) >> 6)

    rules = {}
    stack = [(offset(units[0]), b"")]
    while stack:
        base, key = stack.pop()
        for byte in range(1, 256):
            at = base ^ byte
            if at < len(units) and units[at] & 0x800000FF == byte:
                child = at ^ offset(units[at])
                if units[at] >> 8 & 1:
                    begin = units[child] & 0x7FFFFFFF
                    text = replacements[begin:replacements.index(b"\0", begin)]
                    rules[(key + bytes([byte])).decode()] = text.decode()
                stack.append((child, key + bytes([byte])))
    return rules


def write_small_rules(blob, file):
    """nmt_nfkc without its 60 000 sequences of Hangul letters: the rest is a tenth of it."""
    with open(file, "w", encoding="utf-8") as out:
        for key, value in sorted(charsmap_rules(blob).items()):
            if len(key) > 1 and any(ord(c) in letters for c in key for letters in HANGUL_LETTERS):
                continue
            out.write(" ".join(f"{ord(c):X}" for c in key) + "\t"
                      + " ".join(f"{ord(c):X}" for c in value) + "\n")


def added_tokens(num_pieces, num_extra_ids):
    """(id, content) of the special tokens; extra ids are numbered backwards, as transformers do."""
    out = [(0, "<pad>"), (1, "</s>"), (3, "<unk>")]
    for i in range(num_extra_ids):
        out.append((num_pieces + i, f"<extra_id_{num_extra_ids - 1 - i}>"))
    return out


def to_tokenizer_json(model, num_extra_ids):
    """The unigram model in the layout of UMT5's tokenizer.json."""
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model)
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=False))
    tokenizer.add_special_tokens([
        AddedToken(content, normalized=False, special=True)
        for _, content in added_tokens(len(pieces), num_extra_ids)])
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap),
        normalizers.Strip(left=False, right=True),
        normalizers.Replace(Regex(" {2,}"), MARK)])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(MARK, "always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["$A", "</s>"], pair=["$A", "</s>", "$B", "</s>"], special_tokens=[("</s>", 1)])
    text = tokenizer.to_str(pretty=False)
    for token_id, content in added_tokens(len(pieces), num_extra_ids):
        assert tokenizer.token_to_id(content) == token_id
    return text


def train_tokenizer(folder, vocab_size, lines=None, num_extra_ids=300, max_length=512,
                    small_charsmap=False, seed=SEED):
    """Writes tokenizer.json, spiece.model and tokenizer_config.json; returns the number of ids.

    At most `vocab_size` pieces: a small corpus gives fewer. `lines` is the corpus.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = corpus(seed) if lines is None else list(lines)
    model = spm_train(lines, vocab_size, normalization_rule_name="nmt_nfkc")
    if small_charsmap:
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(model)
        with tempfile.TemporaryDirectory() as scratch:
            rules = Path(scratch) / "rules.tsv"
            write_small_rules(proto.normalizer_spec.precompiled_charsmap, rules)
            proto.ParseFromString(spm_train(lines, vocab_size, normalization_rule_tsv=str(rules)))
        proto.normalizer_spec.normalization_rule_tsv = ""  # the scratch folder's name
        model = proto.SerializeToString(deterministic=True)
    num_pieces = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    config = {
        "added_tokens_decoder": {
            str(token_id): {"content": content, "lstrip": False, "normalized": False,
                            "rstrip": False, "single_word": False, "special": True}
            for token_id, content in added_tokens(num_pieces, num_extra_ids)},
        "additional_special_tokens": [f"<extra_id_{i}>" for i in range(num_extra_ids)],
        "clean_up_tokenization_spaces": True,
        "eos_token": "</s>",
        "extra_ids": num_extra_ids,
        "model_max_length": max_length,
        "pad_token": "<pad>",
        "sp_model_kwargs": {},
        "tokenizer_class": "T5Tokenizer",
        "unk_token": "<unk>",
    }
    (folder / "spiece.model").write_bytes(model)
    (folder / "tokenizer.json").write_text(to_tokenizer_json(model, num_extra_ids), "utf-8")
    write_json(folder / "tokenizer_config.json", config)
    return num_pieces + num_extra_ids


# --- prompts -----------------------------------------------------------------------------------

PROMPTS = """
Hello, world!
Héllo wörld, naïve café, Ångström, ﬁne ﬂag oﬃce ﬅ
e\u0301 a\u030a\u0301 o\u0308 n\u0303 ﬁ\u0301 A\u0300\u0323
ｆｕｌｌ　ｗｉｄｔｈ １２３！ ﾊﾝｶｸ ｶﾞｷﾞｸﾞ ﾊﾟ
①②③ ㎏ ㍿ ½ ¼ ⅓ x² H₂O ™ © ® № ℃ Å Ω
\u1112\u1161\u11ab\u1100\u1173\u11af 한글 ㅎㅏㄴ ᄀ
\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd בּוֹקֶר
السَّلامُ عَلَيْكُمْ ﷺ ﷽ ﻻ ـــ ١٢٣
क्षत्रिय ज्ञान श्री हिन्दी में लिखा है
বাংলা ভাষা ক্ষুদ্র শ্রেষ্ঠ
தமிழ் மொழி க்ஷ ஸ்ரீ
ภาษาไทย กำลังเดิน น้ำใจ
ქართული ენა ႠႡႢ ᲐᲑᲒ
Հայերեն լեզու և ﬓ
አማርኛ ትግርኛ ፩፪፫
ខ្មែរ ລາວ မြန်မာ བོད་ཡིག සිංහල తెలుగు ಕನ್ನಡ മലയാളം ગુજરાતી ਪੰਜਾਬੀ
ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ ⵜⴰⵎⴰⵣⵉⵖⵜ ꦧꦱꦗꦮ ߒߞߏ
𝔊𝔬𝔱𝔥𝔦𝔠 𝒮𝒸𝓇𝒾𝓅𝓉 𝟘𝟙𝟚 𐌀𐌁𐌂 𒀀𒁀
👨\u200d👩\u200d👧\u200d👦 🏳\ufe0f\u200d🌈 👍🏽 🇩🇪🇯🇵 ❤\ufe0f 1\ufe0f\u20e3 🧑\u200d🚀
😀😃😄😁 🐱🐶🦊 ☀☁☂
a\u0000b\u0001c\u0007d\u001be\u007ff
a\u0085b\u0080c\u009fd\u00ade\u200bf\u200cg\u200dh\ufeffi
  leading and trailing  \x20
a  b   c    d\u2003e\u00a0f\u3000g\u2009h\u202fi\u205fj\u1680k
\u2581already\u2581marked \u2581\u2581 two
\u2581
</s>
<pad>
<unk>
<s>
<extra_id_0>
a</s>b
a </s> b
<extra_id_0> and <extra_id_9> but <extra_id_10> and <extra_id_1
</s></s><pad> <unk> <UNK> < /s> &lt;/s&gt;
Use <b>bold</b> &amp; "quotes" 'single' “curly” ‘curly’ — dash … dots
C++17 #include <vector> a_b a-b a/b a\\b a|b a@b.c https://example.org/?q=1&r=2#x
AaAaAa aaaaaaaaaaaaaaaa ZZZZZZ zzzz xqzjk
3.14159 1,000,000 2025-01-31 50% $5 €7 £9 ¥11
ǅ ǆ Ǆ İi ıI ß ẞ ſ ŉ ĳ
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich
Příliš žluťoučký kůň úpěl ďábelské ódy
Съешь же ещё этих мягких французских булок, да выпей чаю
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία ΆΈΉΊΌΎΏ ΐΰ ς
いろはにほへと ちりぬるを ゔ ヷ が か\u3099 は\u309a
天地玄黃 宇宙洪荒 豈 更 﨑 神 𠮷 𪚥 葛\U000e0100
키스의 고유조건은 입술끼리 만나야 하고
דג סקרן שט בים מאוכזב
نص حكيم له سر قاطع وذو شأن عظيم
Z\u0351\u036b\u0343\u036a\u0302\u036ba\u0334l\u0321g\u033b\u032co
\u0301starts with a mark
\u200dstarts with a joiner
x\ufffdy\ufffez\uffff\U0010ffff
\U000f0000private\ue000use
\u0600\u0661\u06dd\u0662 \u110bd prepend
ᄀ\u1160\u11a8 가\u11a8 각\u11a8
""".strip("\n").split("\n")

EDGE = [
    "", " ", "  ", "\n", "a", "é", "中", "🙂", "\u0301", "\x00", "▁", "▁▁", "▁ ▁", "a▁b", "a ▁b", "a▁ b",
    "\t\n\r", "tab\there\nnew line\r\nwindows\rmac\vvertical\fform", "line\n\nline\n",
    "\r\n", "a\r\nb", "a \r\n b", "\u3000", " </s>", "</s> ", "  </s>  x", "x  </s>",
    "<extra_id_0><extra_id_1>", "<extra_id_0>▁x", "ab" * 40, "!" * 33, "中" * 50, "🙂" * 10,
]

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789.,;:!?-()[]\"'",
    "àáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿß", "\u0300\u0301\u0302\u0303\u0308\u030a\u0323\u0327\u0338",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя", "αβγδεζηθικλμνξοπρστυφχψω",
    "的一是不了人我在有他这中大来上国", "あいうえおかきくけこアイウエオガパ", "ｱｲｳｶﾞﾊﾟＡＢＣ１２３　",
    "가나다라마바사아자차카타파하", "\u1100\u1161\u11a8\u1112\u1173", "ابتثجحخدذرزسشصضطظعغ\u064e\u0651",
    "אבגדהוזחטיכלמנסעפצקרשת\u05b8\u05bc", "कखगघचछजझटठड\u093e\u093f\u094d\u0902", "กขคงจ\u0e33\u0e49\u0e35",
    "ﬁﬂﬀ①½²™℃㎏㍿ΩÅ", "😀👍🏽\u200d\ufe0f🇩🇪👩❤", "\u200b\u200c\u00ad\ufeff\u0085\u2028\u00a0",
    "\x00\x01\x1b\x7f\t\n\r\x0b\x0c", "▁▁▁", "        ",
]
SPECIALS = ["</s>", "<pad>", "<extra_id_0>", "<extra_id_3>", "<s>", "<unk>"]


def random_prompts(count, seed, max_length=24):
    rng = random.Random(seed)
    out = []
    for _ in range(count):
        pools = rng.sample(ALPHABETS, rng.randint(1, 4)) + ["  "]
        text = ""
        for _ in range(rng.randint(1, max_length)):
            text += rng.choice(rng.choice(pools))
            if rng.random() < 0.02:
                text += rng.choice(SPECIALS)
        out.append(text)
    return out


def all_prompts():
    prompts = PROMPTS + EDGE + SENTENCES + random_prompts(220, SEED)
    prompts.append("A cat walks on the grass, realistic style, soft morning light. " * 40)
    return list(dict.fromkeys(prompts))


# --- variants: other components that the file may name -----------------------------------------

TOY_VOCAB = [["<pad>", 0.0], ["</s>", 0.0], ["<s>", 0.0], ["<unk>", 0.0], [MARK, -2.0],
             ["a", -1.0], ["b", -1.0], ["ab", -2.0], ["aa", -2.0], ["ba", -2.0], ["aab", -3.0],
             [MARK + "a", -3.0], ["c", -20.0], ["é", -4.0], ["xy", -5.0]]
BYTES_VOCAB = TOY_VOCAB + [[f"<0x{byte:02X}>", -9.0] for byte in range(256)]


def token(token_id, content, **flags):
    return {"id": token_id, "content": content, "single_word": False, "lstrip": False,
            "rstrip": False, "normalized": False, "special": False, **flags}


def variants(base):
    """(name, top-level keys of tokenizer.json to replace, prompts)."""
    precompiled = base["normalizer"]["normalizers"][0]
    metaspace = base["pre_tokenizer"]
    specials = base["added_tokens"]
    first_id = max(t["id"] for t in specials) + 1
    toy = {"type": "Unigram", "unk_id": 3, "vocab": TOY_VOCAB, "byte_fallback": False}
    toy_specials = [t for t in specials if t["id"] < 4]
    toy_keys = {"added_tokens": toy_specials, "normalizer": None}
    some = PROMPTS + EDGE
    ties = ["a", "aa", "aaa", "ab", "aab", "aba", "abab", "aaab", "baab", "abba", "c", "ac", "cc",
            "acb", "d", "ad", "dd", "ddadd", "xyd", "dxy", "é", "ée", "x", "xy", "xyx", "a d b",
            "<unk>", "a<unk>b", "中a", "中文a文", "abaabaaab", "\x00", "a\x00b"]

    def sequence(*parts):
        return {"type": "Sequence", "normalizers": list(parts)}

    def replace(pattern, content):
        return {"type": "Replace", "pattern": pattern, "content": content}

    yield "whitespace split before Metaspace", {"pre_tokenizer": {
        "type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]}}, some
    yield "bare Precompiled", {"normalizer": precompiled}, some
    yield "old Metaspace", {"pre_tokenizer": {
        "type": "Metaspace", "replacement": MARK, "add_prefix_space": True}}, some[:20]
    yield "prefix never", {"pre_tokenizer": {**metaspace, "prepend_scheme": "never"}}, some[:40]
    yield "prefix first", {"pre_tokenizer": {**metaspace, "prepend_scheme": "first"}}, some
    yield "prefix first, no split", {
        "pre_tokenizer": {**metaspace, "prepend_scheme": "first", "split": False}}, some[:30]
    yield "no pre-tokenizer", {"pre_tokenizer": None}, some[:30]
    yield "no normalizer", {"normalizer": None}, some[:40]
    yield "Nmt and NFKC", {"normalizer": sequence({"type": "Nmt"}, {"type": "NFKC"})}, some
    yield "NFD", {"normalizer": {"type": "NFD"}}, some
    yield "NFC", {"normalizer": {"type": "NFC"}}, some
    yield "NFKD", {"normalizer": {"type": "NFKD"}}, some
    yield "Lowercase and Strip", {"normalizer": sequence(
        {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": True})}, some
    yield "Prepend and Replace", {
        "normalizer": sequence({"type": "Prepend", "prepend": MARK}, replace({"String": " "}, MARK)),
        "pre_tokenizer": None}, some[:40]
    yield "Replace by expression", {"normalizer": sequence(
        replace({"Regex": "\\s+"}, " "), replace({"Regex": "a+"}, "A"),
        replace({"Regex": "l{2,}"}, "L"))}, some
    yield "Strip left, prefix first", {
        "normalizer": {"type": "Strip", "strip_left": True, "strip_right": False},
        "pre_tokenizer": {**metaspace, "prepend_scheme": "first"}}, some[:40]
    yield "added tokens with every flag", {"added_tokens": specials + [
        token(first_id, "cat", single_word=True), token(first_id + 1, "LEFT", lstrip=True),
        token(first_id + 2, "RIGHT", rstrip=True), token(first_id + 3, "BOTH", lstrip=True, rstrip=True),
        token(first_id + 4, "ﬁx", normalized=True), token(first_id + 5, "BOT"),
        token(first_id + 6, "Übung", normalized=True, single_word=True)]}, [
        "a cat sat", "concat cat cats", "cat", "cat-cat cat", "中cat文", "ecat é cat", "_cat cat_",
        "a  LEFT b", "a  RIGHT  b", "  BOTH  ", "BOTH BOTH", "a RIGHT  LEFT b", "x LEFTRIGHT  y",
        "ﬁx", "fix", "prefix", "ａ fix", "BOTBOTH BOTTOM", "LEFT\u3000LEFT", "RIGHT\u00a0a", "Übung",
        "U\u0308bung macht", "Übungen", "RIGHT  </s>  LEFT", "RIGHT BOTH LEFT", "  LEFT", "RIGHT  "]
    yield "begin of sequence", {"post_processor": {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}},
                   {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]},
                           "<s>": {"id": "<s>", "ids": [2], "tokens": ["<s>"]}}}}, some[:10]
    yield "ties and unknowns", {"model": toy, **toy_keys}, ties
    yield "ties without prefix", {"model": toy, **toy_keys, "pre_tokenizer": None}, ties
    yield "byte fallback", {"model": {**toy, "vocab": BYTES_VOCAB, "byte_fallback": True}, **toy_keys}, \
        ties + some[:30]
    yield "byte fallback, bytes missing", {"model": {**toy, "byte_fallback": True}, **toy_keys}, ties


def ids_of(tokenizer, prompts):
    return [[text, tokenizer.encode(text).ids] for text in prompts]


def vectors(folder):
    text = (folder / "tokenizer.json").read_text("utf-8")
    base = json.loads(text)
    out = {"cases": ids_of(Tokenizer.from_str(text), all_prompts()), "variants": []}
    for name, keys, prompts in variants(base):
        tokenizer = Tokenizer.from_str(json.dumps({**base, **keys}))
        shown = json.loads(json.dumps(keys))
        out["variants"].append({"name": name, "replace": drop_charsmap(shown),
                                "cases": ids_of(tokenizer, list(dict.fromkeys(prompts)))})
    return out


def drop_charsmap(value):
    """The big map is in tokenizer.json already: the test puts it back where it reads "=base"."""
    if isinstance(value, dict):
        return {k: "=base" if k == "precompiled_charsmap" else drop_charsmap(v)
                for k, v in value.items()}
    return [drop_charsmap(v) for v in value] if isinstance(value, list) else value


# --- cleaning ----------------------------------------------------------------------------------


def prompt_clean(text):
    """pipeline_wan.py of diffusers."""
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return re.sub(r"\s+", " ", text).strip()


def mangle(text, encoding):
    """UTF-8 read as another encoding; undefined bytes stay what they are in Latin-1."""
    return text.encode().decode("sloppy-" + encoding if encoding.startswith("windows") else encoding)


CLEAN = [
    "", " ", "plain text", "  two  spaces ", "tab\tand\nnew\r\nlines\r\rdone", "a\u2028b\u2029c\u0085d",
    "\x1c\x1d\x1e\x1f a \x1f", "a\u00a0b\u2003c\u3000d\u202fe\u205ff\u1680g\u200bh",
    "“double” ‘single’ „low‟ ‚low‛ ʼmod", "&amp;", "&amp;amp;", "&amp;amp;amp;amp;lt;", "&lt;b&gt;",
    "&quot;quoted&quot;", "&eacute;t&eacute;", "&EACUTE;T&EACUTE;", "&notit; &not; &notin; &ampx &ampx;",
    "&hellip; &mdash; &nbsp; &copy &copy2 &AMP &AMP; &amp", "&#65;&#x41;&#X41;&#65 &#x41g", "&#0; &#128; &#x80;",
    "&#x110000; &#xD800; &#1; &#xFFFE; &#99999999999999999999;", "&#59;&#59 &#12x; &#abc; &#; &#x; &;",
    "&CounterClockwiseContourIntegral;", "&CounterClockwiseContourIntegralX;", "&NotEqualTilde; &bne; &fjlig;",
    "a<b &amp; c>d", "first &amp; line\nsecond <b> &amp; line\nthird &amp; &eacute; line",
    "&SUP; &SUP1; &SUP3; &SUPE; &EMSP; &EMSP13; &NBSP;x", "&SZLIG; &FFILIG; &ntilde; &NTILDE; &nTILDE; &Jscr; &hilbert; &HILBERT;", "this&not that&para", "&Ã©;",
    "ﬁne oﬃce ﬀ ﬆ ﬅ ĳ Ĳ ŉ Ǆ ǅ ǆ Ǉ ǈ ǉ Ǌ ǋ ǌ Ǳ ǲ ǳ", "ＬＯＵＤ　ＮＯＩＳＥＳ", "Ｕﾀｰﾝ ﾊﾟ ｶﾞ ￦ ￥ ￠", "ﾡﾢﾣ ￨￩￪",
    "\x1b[36;44mI'm blue\x1b[0m \x1b[1;x \x1b[٣m \x1b[m", "a\x00b\x07c\x0bd\x0ee\x7ff\u206ag\ufeffh\ufff9i\ufffcj",
    "e\u0301 a\u030a A\u030a\u0301 \u1112\u1161\u11ab", "\u212b \u2126 \uf900 \u0958 \ufb1d \u2adc",
    "Ã©", "Ã\xa0", "Ã ", "voilÃ le travail", "Ã la mode", "fÃ cil", " Ã quele ", "Ã s vezes", "dÃ©jÃ  vu",
    "sÃ³", "âœ” No problems", "&macr;\\_(ã\x83\x84)_/&macr;", "â€œquotedâ€\x9d", "â€œ like this â€�", "â€™ donâ€™t",
    "Iâ€™m â€¦ here â€” now â€“ then", "The Mona Lisa doesnÃƒÂ¢Ã¢â€šÂ¬Ã¢â€žÂ¢t have eyebrows.", "l’humanitÃ©",
    "ÃƒÂ©", "Ãƒâ€šÃ‚Â©", "Â© 2024 Â® Â° Â£5", "10Âµm Â±5Â°C", "Ð¿ÑÐ¸Ð²ÐµÑ", "ÐŸÑ€Ð¸Ð²ÐµÑ‚", "РџСЂРёРІРµС‚", "ÎšÎ±Î»Î·Î¼Î­ÏÎ±",
    "æ—¥æœ¬èªž", "ä½ å¥½", "í•œêµ­ì–´", "ðŸ˜Š smile ðŸš€", "Ù…Ø±Ø­Ø¨Ø§", "à¤¨à¤®à¤¸à¥à¤¤à¥‡",
    "schÃ¶n", "Schönheit", "Ärger über Öl", "C\x80\x85\x93quoted\x94", "it\x92s \x96 \x97 ok\x85", "\x81\x8d\x8f\x90\x9d é",
    "naïve café", "Å Ångström å", "voilà", "œuvre Œuvre œ", "ÂÃ ÎÐ", "A\x80", "€5", "×²", "à²", "√± ≈°", "‚Äì ‚àû",
    "caf√©", "d√©j√† vu", "‚Äúquoted‚Äù", "Hello‚Äôs", "ΓΓé", "вЂ™", "вЂ\x9d", "ā€", "ГўВЂВљ x", "β€™", "Γ©", "ÃŸ", "ÃÂ",
    "Ã‰cole Ãœber Ã‘andÃº", "LÃ\x82KÃ\x8bPÃ\x9cRÃ\x9c", "ï»¿BOM", "\ufeffBOM", "mixed Ã© and é and Ã¼ and 中", "Ã© 中文 â€œtestâ€",
    "à¸ à¸²à¸©à¸²", "í\xa0½í¸\x8d", "x í \x80í°\x80", "bad À\x80 Ã©", "Ã©À\n", "Ã© í\xa0\x80í°\n", "┬┴┬┴ ︻デ═一", "(╯°□°)╯︵ ┻━┻", "┌─┐ ß",
    "░▒▓ é ░", "ø ø Ø", "¯\\_(ツ)_/¯", "P&Eacute;REZ &Ccedil; &CCEDIL;", "Ã\u008dÃ\u0081", "É É\u0301", "\u1e9b\u0323",
    "Œ œ! œa", "“Ã©”", "‘Ã¨’ — “Ã ”", "À la carte, à gauche", "Ë Ü Ñ", "ñandÃº ñ", "ÀÃÃÃÃÃÃ", "Š©", "°C é°", "É°",
    "\U0001f600 emoji \u200d ZWJ \U0001f468\u200d\U0001f469", "très‑bien", "a\u0336b", "中文，标点。「引号」", "日本語テキスト", "한국어 텍스트",
    "עברית", "العربية", "हिन्दी", "ไทย", "Ελληνικά", "Русский текст", "¡Hola! ¿Qué tal?", "£5 «guillemets» ‹single›",
]

MANGLED = ["schön", "déjà vu", "naïve café à la carte", "“curly” ‘quotes’", "…dots — dash – en", "Привет, мир",
           "Καλημέρα κόσμε", "日本語", "你好，世界", "한국어", "😀👍🏽", "Žluťoučký kůň", "ñandú ¿qué?", "€5 £6 ¥7",
           "مرحبا", "שלום", "नमस्ते", "Łódź ąęć", "ℵ ≠ ∞", "x\u00a0y"]
ENCODINGS = ["latin-1", "windows-1252", "windows-1251", "windows-1250", "windows-1253", "windows-1254",
             "windows-1257", "iso-8859-2", "mac-roman", "cp437"]


def random_dirty(count, seed):
    """Mixes of clean, mangled and escaped text."""
    rng = random.Random(seed)
    clean = MANGLED + PROMPTS[:30] + ["&amp;", "&eacute;", "<b>", "\n", " ", "\x93", "\x85", "’", "Ã", "Â ", "�"]
    out = []
    for _ in range(count):
        text = ""
        for _ in range(rng.randint(1, 4)):
            part = rng.choice(clean)
            for _ in range(rng.choice([0, 0, 1, 1, 1, 2])):
                try:
                    part = mangle(part, rng.choice(ENCODINGS[:6]))
                except UnicodeDecodeError:
                    break
            text += part + rng.choice(["", " ", "  ", "\n"])
        out.append(text)
    return out


def clean_cases():
    prompts = CLEAN + [mangle(text, encoding) for encoding in ENCODINGS for text in MANGLED]
    prompts += PROMPTS + EDGE[:20] + random_dirty(150, SEED)
    return [[text, prompt_clean(text)] for text in dict.fromkeys(prompts)]


# --- files -------------------------------------------------------------------------------------


def write_json(file, value):
    file.write_text(json.dumps(value, ensure_ascii=False, indent=0) + "\n", "utf-8")


def write_cases(file, value):
    """One case a line."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    file.write_text(text.replace("],[\"", "],\n[\"") + "\n", "utf-8")


def manifest(file, what, packages, digests):
    write_json(file, {
        "what": what,
        "producer": "tools/golden/text.py",
        "command": ".deps/venv/bin/python tools/golden/text.py",
        "seed": SEED,
        "versions": {"python": platform.python_version(),
                     **{name: importlib.metadata.version(name) for name in packages}},
        "sha256": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in digests},
        "tolerance": 0,
        "tolerance_reason": "ids and strings are equal or wrong",
    })


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    root = Path(__file__).resolve().parents[2]
    parser.add_argument("--out", type=Path, default=root / "tests/golden/text")
    parser.add_argument("--vocab-size", type=int, default=3000)
    args = parser.parse_args()
    folder = args.out / "tokenizer"
    num_ids = train_tokenizer(folder, args.vocab_size, num_extra_ids=10, small_charsmap=True)
    manifest(args.out / "tokenizer.manifest.json",
             f"unigram tokenizer in UMT5's layout, {num_ids} ids; nmt_nfkc without Hangul letter sequences",
             ["sentencepiece", "tokenizers"], sorted(folder.iterdir()))
    write_cases(args.out / "vectors.json", vectors(folder))
    manifest(args.out / "vectors.manifest.json", "prompts and ids by the tokenizers library",
             ["tokenizers"], [args.out / "vectors.json"])
    write_cases(args.out / "clean.json", clean_cases())
    manifest(args.out / "clean.manifest.json", "prompts as diffusers' prompt_clean leaves them",
             ["ftfy"], [args.out / "clean.json"])


if __name__ == "__main__":
    main()
