"""banditroute.toml: every error names the key and the expected form, and secrets are never shown."""

from __future__ import annotations

import tomllib
import types
import typing
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest

from banditroute.catalog import Model
from banditroute.config import Config, Duration, Secret, from_dict, load, parse
from banditroute.errors import ConfigError
from banditroute.router import make_encoder
from banditroute_features import FeatureSpec

MODEL = """
[[models]]
name = "small"
input_usd_per_mtok = 0.1
output_usd_per_mtok = 0.4
"""
EXAMPLE = resources.files("banditroute").joinpath("example.toml").read_text(encoding="utf-8")


def message(text: str) -> str:
    """The one sentence that refuses a configuration."""
    with pytest.raises(ConfigError) as refused:
        parse(text)
    return str(refused.value)


def test_models_alone_are_enough() -> None:
    config = parse(MODEL)
    assert config.catalog.names == ("small",)
    assert config.kafka.bootstrap_servers == "127.0.0.1:9092"
    assert config == from_dict(tomllib.loads(MODEL))


# -- errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "key", "expected"),
    [
        ("[kafka]\ngroup = 5", "kafka.group", "text"),
        ('[kafka]\ngroup = ""', "kafka.group", "not empty"),
        ('[kafka]\npartitions = "4"', "kafka.partitions", "an integer"),
        ("[kafka]\npartitions = 0", "kafka.partitions", "at least 1"),
        ("[kafka.topics]\nrequests = 1", "kafka.topics.requests", "text"),
        ("[engine]\nmax_batch = 0", "engine.max_batch", "at least 1"),
        ("[engine]\nmax_batch = 1.5", "engine.max_batch", "an integer"),
        ('[engine]\ndead_letter_payload = "yes"', "engine.dead_letter_payload", "true or false"),
        ("[engine]\npublish_interval = 5", "engine.publish_interval", '"250ms"'),
        ('[engine]\npublish_interval = "5"', "engine.publish_interval", '"250ms"'),
        ('[feedback]\njoin_window = "3 days"', "feedback.join_window", '"3d"'),
        ("[feedback]\nmax_open = -1", "feedback.max_open", "at least 1"),
        ("[requests]\nfield_map = { request_id = 5 }", "requests.field_map", "text"),
        ('[requests]\nheader_pass_through = "traceparent"', "requests.header_pass_through", "a list"),
        ("[objective]\ncost_weight = -1", "objective.cost_weight", "at least 0"),
        ("[objective]\ncost_weight = nan", "objective.cost_weight", "at least 0"),
        ("[objective]\nlatency_weight = inf", "objective.latency_weight", "at most 1e+09"),
        ("[learning]\nseed = -1", "learning.seed", "at least 0"),
        ("[learning]\nthumb_weight = 0", "learning.thumb_weight", "more than 0"),
        ('[kafka]\nsasl_password = "hunter2"', "kafka.sasl_password", '{ env = "NAME" }'),
        ("[kafka]\nsasl_password = { env = 5 }", "kafka.sasl_password", '{ env = "NAME" }'),
        ('[kafka]\nssl_password = { env = "A", default = "b" }', "kafka.ssl_password", '{ env = "NAME" }'),
    ],
)
def test_a_wrong_value_names_its_key_and_the_expected_form(table: str, key: str, expected: str) -> None:
    said = message(f"{MODEL}{table}\n")
    assert f"{key}" in said
    assert expected in said
    assert "\n" not in said


def test_an_infinite_latency_of_a_model_is_refused() -> None:
    assert "models[0].prior_latency_ms" in message(f"{MODEL}prior_latency_ms = inf\n")


@pytest.mark.parametrize(
    ("table", "key", "choices"),
    [
        ('[engine]\nmode = "activ"', "engine.mode", ["active", "shadow", "frozen"]),
        ('[kafka]\nstart = "now"', "kafka.start", ["earliest", "latest"]),
        ('[kafka]\ncompression = "lz5"', "kafka.compression", ["none", "gzip", "snappy", "lz4", "zstd"]),
        (
            '[requests]\npartitioner = "java"',
            "requests.partitioner",
            ["auto", "murmur2", "crc32", "fnv1a", "any"],
        ),
        ('[logging]\nlevel = "trace"', "logging.level", ["debug", "info", "warning", "error"]),
    ],
)
def test_a_value_that_is_no_choice_names_the_choices(table: str, key: str, choices: list[str]) -> None:
    said = message(f"{MODEL}{table}\n")
    assert key in said
    for choice in choices:
        assert choice in said


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        (MODEL + "[kafak]\n", "kafak", "kafka"),
        (MODEL + "[engine]\nmaxbatch = 5\n", "engine.maxbatch", "engine.max_batch"),
        (MODEL + '[kafka.topics]\nrequest = "a"\n', "kafka.topics.request", "kafka.topics.requests"),
        (MODEL + "[learning]\nhalflife = 1\n", "learning.halflife", "learning.half_life"),
        (MODEL + "prize = 1\n", "models[0].prize", "prior_quality"),
        (
            MODEL.replace("input_usd", "inputs_usd"),
            "models[0].inputs_usd_per_mtok",
            "models[0].input_usd_per_mtok",
        ),
    ],
)
def test_an_unknown_key_is_named_together_with_the_nearest_one(text: str, key: str, nearest: str) -> None:
    said = message(text)
    assert f"unknown key '{key}'" in said
    assert nearest in said


@pytest.mark.parametrize("table", ["requests", "feedback"])
def test_a_field_map_may_only_name_fields_of_the_event(table: str) -> None:
    said = message(f'{MODEL}[{table}]\nfield_map = {{ requestid = "$.id" }}\n')
    assert f"{table}.field_map" in said
    assert "request_id" in said
    said = message(f'{MODEL}[{table}]\nfield_map = {{ zzz = "$.id" }}\n')
    assert "valid keys are: " in said
    assert "tenant" in said


@pytest.mark.parametrize("path", ["", "$", "$.", "$.a..b", "a."])
def test_a_field_map_holds_paths(path: str) -> None:
    said = message(f'{MODEL}[requests]\nfield_map = {{ prompt = "{path}" }}\n')
    assert "requests.field_map.prompt: Expected a path" in said
    assert '"$.meta.id"' in said


@pytest.mark.parametrize(
    "servers",
    ["", " ", "host:port", "host:", "host:0", "host:65536", "a:1,", "a b:1", "::1", "[::1", "a:1:2"],
)
def test_servers_are_hosts_and_ports(servers: str) -> None:
    assert "kafka.bootstrap_servers" in message(f'{MODEL}[kafka]\nbootstrap_servers = "{servers}"\n')


@pytest.mark.parametrize(
    "servers", ["host", "host:9092", "10.0.0.1:1, b.example.org:65535", "[::1]:9092", "[::1]"]
)
def test_servers_may_be_several_and_of_any_kind(servers: str) -> None:
    assert parse(f'{MODEL}[kafka]\nbootstrap_servers = "{servers}"\n').kafka.bootstrap_servers == servers


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
def test_logging_in_needs_a_name_and_a_password(protocol: str, mechanism: str) -> None:
    table = f'[kafka]\nsecurity_protocol = "{protocol}"\nsasl_mechanism = "{mechanism}"\n'
    assert "kafka.sasl_username is missing" in message(MODEL + table)
    assert "kafka.sasl_password is missing" in message(f'{MODEL}{table}sasl_username = "router"\n')


def test_a_key_without_its_certificate_is_refused() -> None:
    assert "kafka.ssl_keyfile needs kafka.ssl_certfile" in message(f'{MODEL}[kafka]\nssl_keyfile = "k.pem"\n')


@pytest.mark.parametrize(("key", "value"), [("tagz", "3"), ("tags", '"x"'), ("statistics", "99")])
def test_a_wrong_features_table_names_the_key(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"features.*{key}.*expected"):
        make_encoder(parse(f"{MODEL}[features]\n{key} = {value}\n"))


def test_an_empty_catalog_says_how_to_add_a_model() -> None:
    for text in ("", "models = []\n", "[kafka]\n"):
        assert "the catalog is empty: add at least one [[models]] table" in message(text)


@pytest.mark.parametrize("text", ["models = 5", "models = [5]", '[models]\nname = "a"'])
def test_models_of_the_wrong_form_are_named(text: str) -> None:
    assert "models" in message(text)


def test_a_table_of_the_wrong_form_is_named() -> None:
    assert "kafka: Expected an object" in message("kafka = 5\n" + MODEL)


@pytest.mark.parametrize("missing", ["name", "input_usd_per_mtok", "output_usd_per_mtok"])
def test_a_model_without_name_or_prices_is_named(missing: str) -> None:
    text = "\n".join(line for line in MODEL.splitlines() if not line.startswith(missing))
    said = message(text)
    assert "models[0]" in said
    assert missing in said


def test_broken_toml_names_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_text("a = = 1", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML: ."):
        load(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*none\.toml: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# \xff\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "latin.toml")


def test_the_default_model_is_one_of_the_catalog() -> None:
    assert "did you mean 'small'?" in message(f'{MODEL}[requests]\ndefault_model = "smal"\n')
    assert "requests.default_model" in message(f'{MODEL}[requests]\nmax_request_age = "5m"\n')


def test_topics_have_legal_names_of_their_own() -> None:
    assert "'a b': expected letters" in message(f'{MODEL}[kafka.topics]\nrequests = "a b"\n')
    assert "one topic twice" in message(f'{MODEL}[kafka.topics]\nrequests = "x"\nfeedback = "x"\n')


# -- durations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("250ms", 0.25),
        ("30s", 30),
        ("15m", 900),
        ("6h", 21600),
        ("3d", 259200),
        ("2w", 1209600),
        (" 1.5 h ", 5400),
    ],
)
def test_durations_are_numbers_with_a_unit(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "m", "-5s", "5 minutes", "5M", "1e3s", "nan s", "5s 3m", 5, None, True]
)
def test_anything_else_is_no_duration(text: object) -> None:
    with pytest.raises(ValueError, match="Expected a duration"):
        Duration.parse(text)


@pytest.mark.parametrize(
    ("table", "key"),
    [
        ('[learning]\nhalf_life = "0s"', "learning.half_life"),
        ('[engine]\npublish_interval = "0s"', "engine.publish_interval"),
        (f'[feedback]\njoin_window = "{"9" * 400}w"', "feedback.join_window"),
        ('[feedback]\njoin_window = "0.5ms"', "feedback.join_window"),
        ('[requests]\nmax_request_age = "36501d"', "requests.max_request_age"),
        ('[kafka]\nsession_timeout = "25d"', "kafka.session_timeout"),
    ],
)
def test_a_duration_that_cannot_be_meant_is_refused(table: str, key: str) -> None:
    assert key in message(f"{MODEL}{table}\n")


# -- secrets --------------------------------------------------------------------------------------------

PASSWORD = 'sasl_password = { env = "BANDITROUTE_TEST_PASSWORD" }'


def test_a_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDITROUTE_TEST_PASSWORD", "hunter2")
    assert (
        parse(f"{MODEL}[kafka]\n{PASSWORD}\n").kafka.sasl_password == Secret("hunter2") != Secret("hunter3")
    )
    assert Secret("hunter2").reveal() == "hunter2"
    monkeypatch.setenv("BANDITROUTE_TEST_PASSWORD", "")
    assert "not empty" in message(f"{MODEL}[kafka]\n{PASSWORD}\n")


def test_a_secret_that_is_not_set_names_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BANDITROUTE_TEST_PASSWORD", raising=False)
    said = message(f"{MODEL}[kafka]\n{PASSWORD}\n")
    assert "kafka.sasl_password" in said
    assert "BANDITROUTE_TEST_PASSWORD" in said


def test_a_literal_secret_is_refused_and_not_repeated() -> None:
    assert "hunter2" not in message(f'{MODEL}[kafka]\nsasl_password = "hunter2"\n')


def test_a_secret_is_not_shown_with_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDITROUTE_TEST_PASSWORD", "hunter2")
    config = parse(f"{MODEL}[kafka]\n{PASSWORD}\n")
    for shown in (repr(config), str(config), f"{config}", repr(config.kafka.sasl_password)):
        assert "hunter2" not in shown
    for wrong in ("group = 5", 'grup = "x"', 'start = "hunter"'):
        assert "hunter2" not in message(f"{MODEL}[kafka]\n{PASSWORD}\n{wrong}\n")


def test_a_secret_is_not_shown_when_it_is_printed_itself() -> None:
    secret = Secret("hunter2")
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", "%s" % secret):  # noqa: UP031
        assert "hunter2" not in shown


# -- the example ----------------------------------------------------------------------------------------


def tables(kind: Any, path: str = "") -> list[tuple[str, Any]]:
    """Every key of the configuration structs with its default, deep; list entries by the name of the list."""
    found = []
    for item in msgspec.structs.fields(kind):
        inner = item.type
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            found += tables(inner, f"{path}{item.name}.")
            continue
        default = item.default
        if item.default_factory is not msgspec.NODEFAULT:
            default = item.default_factory()
        found.append((f"{path}{item.name}", default))
    return found


def uncommented() -> str:
    """The example with the optional keys switched on, too."""
    lines = []
    for line in EXAMPLE.splitlines():
        bare = line.removeprefix("# ")
        is_key = line.startswith("# ") and bare.partition(" = ")[1] and bare.split(" = ")[0].isidentifier()
        lines.append(bare if is_key else line)
    return "\n".join(lines)


def test_the_example_is_a_valid_configuration() -> None:
    config = parse(EXAMPLE)
    assert config.catalog.names == ("small", "large")
    make_encoder(config)


def test_the_example_is_valid_with_every_optional_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", "hunter2")
    objectives = ("budget_usd_per_request", "budget_usd_per_day", "quality_floor")
    companions = {"budget_usd_per_day": "requests_per_day", "quality_floor": "reference"}
    for kept in objectives:
        document = tomllib.loads(uncommented())
        for key in {*objectives, *companions.values()} - {kept, companions.get(kept)}:
            del document["objective"][key]
        config = from_dict(document)
        assert getattr(config.objective, kept) is not None
        assert config.learning.half_life is not None
        assert config.requests.default_model == "small"
        make_encoder(config)


@pytest.mark.parametrize(
    ("objective", "sentence"),
    [
        ({"budget_usd_per_request": 1.0, "quality_floor": 0.9, "reference": "large"}, "exclude each other"),
        ({"budget_usd_per_request": 1.0, "cost_weight": 2.0}, "cost_weight is solved for"),
        (
            {"budget_usd_per_day": 1.0},
            "objective.budget_usd_per_day and objective.requests_per_day go together",
        ),
        (
            {"requests_per_day": 1.0},
            "objective.budget_usd_per_day and objective.requests_per_day go together",
        ),
        ({"quality_floor": 0.9}, "objective.quality_floor and objective.reference go together"),
        ({"quality_floor": 0.9, "reference": "huge"}, "objective.reference names 'huge'"),
        (
            {"quality_floor": 1.5, "reference": "large"},
            "quality_floor: Expected a number of more than 0 and at most 1",
        ),
        (
            {"budget_usd_per_request": 0.0},
            "objective.budget_usd_per_request: Expected a number of more than 0",
        ),
    ],
)
def test_objectives_that_cannot_be_meant_are_refused(objective: dict[str, Any], sentence: str) -> None:
    models = tomllib.loads(EXAMPLE)["models"]
    with pytest.raises(ConfigError) as refused:
        from_dict({"models": models, "objective": objective})
    assert sentence in str(refused.value)


def test_the_example_shows_the_defaults() -> None:
    document = tomllib.loads(EXAMPLE)
    shown = from_dict(document)
    plain = from_dict({"models": document["models"]})
    for table in ("kafka", "requests", "feedback", "engine", "objective", "learning", "features", "logging"):
        assert getattr(shown, table) == getattr(plain, table), table


def test_what_the_example_shows_of_features_and_models_are_the_defaults() -> None:
    document = tomllib.loads(uncommented())
    assert FeatureSpec.from_dict(document.get("features", {})) == FeatureSpec()
    small = next(model for model in document["models"] if model["name"] == "small")
    defaults = {item.name: item.default for item in msgspec.structs.fields(Model)}
    assert small["generation"] == defaults["generation"]
    assert small["paused"] == defaults["paused"]


def test_the_example_mentions_every_key() -> None:
    document = tomllib.loads(uncommented())
    missing = []
    for path, _ in tables(Config):
        node: Any = document
        for step in path.split("."):
            node = node.get(step) if isinstance(node, dict) else None
        if node is None:
            missing.append(path)
    models = {key for model in document["models"] for key in model}
    missing += [f"models.{item.name}" for item in msgspec.structs.fields(Model) if item.name not in models]
    missing += [
        f"features.{name}" for name in FeatureSpec().to_dict() if name not in document.get("features", {})
    ]
    assert missing == []


def test_every_key_has_a_default_but_the_models() -> None:
    assert [path for path, default in tables(Config) if default is msgspec.NODEFAULT] == ["models"]


def test_optional_keys_have_no_default_value() -> None:
    for path, default in tables(Config):
        kind: Any = Config
        for step in path.split("."):
            kind = next(item.type for item in msgspec.structs.fields(kind) if item.name == step)
        if types.NoneType in typing.get_args(kind):
            assert default is None, path
