"""Names in the code that `make resource` writes: singular and plural, and which ones are taken."""

import builtins
import keyword
import re

IRREGULAR = {
    "addresses": "address",
    "caches": "cache",
    "children": "child",
    "cookies": "cookie",
    "leaves": "leaf",
    "men": "man",
    "movies": "movie",
    "people": "person",
    "quizzes": "quiz",
    "shelves": "shelf",
    "shoes": "shoe",
    "women": "woman",
}
# Singular and plural are the same.
SAME = {"news", "series", "species"}
ENDINGS = [
    (r"(?<=\w)ies$", "y"),
    (r"(ss|sh|ch|x)es$", r"\1"),
    (r"(ou|au)ses$", r"\1se"),
    (r"uses$", "us"),
    (r"yses$", "ysis"),
    (r"oes$", "o"),
    (r"(?<=[^su])s$", ""),
]
# Names that the written modules import or define.
TAKEN = set(
    """
    annotated any apirouter async_session asyncsession base base_model basemodel big_integer
    biginteger bindparam change changed_error changederror check_constraint checkconstraint
    collection config_dict configdict create created cursor day decimal delete dt etags
    exact_numeric exactnumeric field float foreign_key foreignkey found httpexception id if_match
    if_none_match ifmatch ifnonematch json key left_out limit list_after literal mapped
    mapped_column model_config models moment not_found page pagination path places read
    read_session_dep readsessiondep remove removed response responses router row rows select
    sequence service session session_dep sessiondep statement string taken text update utc_date_time
    utcdatetime uuid values version versions
    """.split()  # noqa: SIM905
)
# Attributes of pydantic's models, and of SQLAlchemy's models and rows; names that classes use.
FIELDS = set(
    """
    construct copy count dict dt from_orm id index int json l mapped_column metadata parse_file parse_obj parse_raw
    registry schema schema_json self str bool float t tuple update_forward_refs validate version
    """.split()  # noqa: SIM905
)
# Reserved in PostgreSQL or SQLite: quoted in conditions; SQLAlchemy quotes them elsewhere.
SQL = set(
    """
    abort action add all alter analyse analyze and any array as asc asymmetric authorization autoincrement begin
    between binary both by cascade case cast check collate collation column commit concurrently conflict constraint
    create cross current current_catalog current_date current_role current_schema current_time current_timestamp
    current_user default deferrable deferred delete desc distinct do drop each else end escape except exists explain
    false fetch for foreign freeze from full glob grant group having if ilike in index indexed initially inner insert
    instead intersect into is isnull join key lateral leading left like limit localtime localtimestamp match
    materialized natural no not nothing notnull null of offset on only or order outer over overlaps placing plan pragma
    primary query raise recursive references regexp reindex release rename replace returning right rollback row
    savepoint select session_user set similar some symmetric system_user table tablesample temp temporary then to
    trailing transaction trigger true union unique update user using vacuum values variadic verbose view virtual when
    where window with without
    """.split()  # noqa: SIM905
)


def singular(plural: str) -> str | None:
    """Return what one of them is called; None if no rule says so."""
    *before, last = plural.split("_")
    if last in SAME:
        return None
    one = IRREGULAR.get(last)
    for pattern, ending in ENDINGS:
        if one is None and re.search(pattern, last):
            one = re.sub(pattern, ending, last)
    return "_".join([*before, one]) if one else None


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def with_article(words: str) -> str:
    vowel = re.match(r"(?!eu|uni|us[aeiu]|ut[ie]|one)[aeiou]|hour|honou?r|heir", words)
    return f"{'an' if vowel else 'a'} {words}"


def is_word(name: str) -> bool:
    """Check for at most 40 characters of snake case."""
    return len(name) <= 40 and bool(re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name))


def is_of_python(name: str) -> bool:
    return keyword.iskeyword(name) or keyword.issoftkeyword(name) or name in dir(builtins)


def quoted(column: str) -> str:
    """Return a column's name as it stands in a condition."""
    return f'"{column}"' if column in SQL else column
