"""What is kept of a command: no secret by its name, place or shape, and the rest as it was."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benthic.cost.metering.masking import LONGEST, mask_text, masked

HEX = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("PGPASSWORD=hunter2 psql", "PGPASSWORD=*** psql"),
        ("MYPASSWORD=x PASSWORD2=y", "MYPASSWORD=*** PASSWORD2=***"),
        ("t --db-pass hunter2 --lr 1", "t --db-pass *** --lr 1"),
        (f"t --wandb-key {HEX}", "t --wandb-key ***"),
        ("t --api_keys a,b APIKEYS=c", "t --api_keys *** APIKEYS=***"),
        ("t --openai-key=abcdefgh", "t --openai-key=***"),
        ('{"api_key": "abc def", "lr": 1}', '{"api_key": "***", "lr": 1}'),
        ('{"api_key":"abc","lr":1}', '{"api_key":"***","lr":1}'),
        (r"-d \"{\"api_key\": \"a b\"}\"", r"-d \"{\"api_key\": \"***\"}\""),
        ('["--token", "abc", "x"]', '["--token", "***", "x"]'),
        ("t --hf-token 'abc' --lr 1", "t --hf-token '***' --lr 1"),
        ("export PASSWORD='correct horse battery'; t", "export PASSWORD='***'; t"),
        ("cmd='--token abc' x", "cmd='--token ***' x"),
        ("echo 'PASSWORD=x' && run 'b c'", "echo 'PASSWORD=***' && run 'b c'"),
        ("Server=x;Password=a'b;t", "Server=x;Password=***;t"),
        ('-H "Authorization: token abcdef" h', '-H "Authorization: *** ***" h'),
        ("Cookie: session=abc; other=d", "Cookie: *** ***"),
        ("--export=ALL,HF_TOKEN=abc", "--export=ALL,HF_TOKEN=***"),
        ("curl -u me:pw h", "curl -u me:*** h"),
        ("postgres://u:p@ss@host/db", "postgres://u:***@host/db"),
        ("https://u:p/w@host", "https://u:***@host"),
        ("pip install git+https://u:p@h/x@v1", "pip install git+https://u:***@h/x@v1"),
    ],
)
def test_a_secret_is_masked_and_no_more(text: str, kept: str) -> None:
    assert mask_text(text) == kept
    assert mask_text(kept) == kept


@pytest.mark.parametrize(
    "text",
    [
        "t --max-tokens=512 --max-tokens 512 --token 512",
        "t --sort-key name --group_key=a --public-key p.pub --pad-token <pad>",
        "t --stop-tokens </s> --sort-keys a,b --max-tokens 9",
        "t --bypass=3 --keys=a,b --monkey=x --author me",
        "docker run -v /data/secrets:/secrets http://h:8080/a@b ssh://git@h/r",
        '{"max_tokens": 512, "tokenizer": "gpt2"}',
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask_text(text) == text


@pytest.mark.parametrize("word", ["HF_TOKEN=correct horse", "--secret=correct horse"])
def test_blanks_of_a_single_word_belong_to_its_value(word: str) -> None:
    name = word.partition("=")[0]
    assert masked(["t", word, "x"]) == f"t '{name}=***' x"
    assert masked(["sh", "-c", "HF_TOKEN=abc t --lr 1"]) == "sh -c 'HF_TOKEN=*** t --lr 1'"


@given(
    secret=st.from_regex(r"[A-Za-z][\w @:/.,+-]{6,20}[A-Za-z]", fullmatch=True),
    name=st.sampled_from(["PGPASSWORD", "db_pass", "wandb-key", "OPENAI_API_KEY", "hfToken"]),
    form=st.sampled_from(["{n}='{s}'", '"{n}": "{s}"', '{{"{n}":"{s}"}}', "--{n} '{s}' x"]),
)
@settings(max_examples=100)
def test_a_quoted_value_is_masked_whole(secret: str, name: str, form: str) -> None:
    found = mask_text("run " + form.format(n=name, s=secret) + " after")
    assert secret not in found and found.startswith("run ") and found.endswith(" after")
    assert found.count("***") == 1 and secret[-6:] not in found


@pytest.mark.parametrize(
    "unit", ["a='", 'key="', "x://u:", "--token '", r"\"k\":", "= ", "Cookie: "]
)
def test_hostile_text_takes_no_time(unit: str) -> None:
    began = time.process_time()
    mask_text((unit * LONGEST)[:LONGEST])
    assert time.process_time() - began < 1.0
