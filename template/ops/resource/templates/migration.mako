<%def name="create()">\
    op.create_table(
        "${d.name}",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
% for field in d.fields:
        sa.Column("${field.name}", ${field.kind.migration}, nullable=${field.optional}),
% endfor
        sa.Column("version", sa.Integer(), nullable=False),
% for name, text in d.conditions:
        sa.CheckConstraint(${repr(text)}, name=op.f("ck_${d.name}_${name}")),
% endfor
% for ref in d.refs:
        sa.ForeignKeyConstraint(["${ref.name}"], ["${ref.table}.id"], name=op.f("fk_${d.name}_${ref.name}_${ref.table}")),
% endfor
        sa.PrimaryKeyConstraint("id", name=op.f("pk_${d.name}")),
% for field in d.unique:
        sa.UniqueConstraint("${field.name}", name=op.f("uq_${d.name}_${field.name}")),
% endfor
        sqlite_autoincrement=True,
    )
% for field in d.fields:
% if field.is_indexed:
    op.create_index(op.f("ix_${d.name}_${field.name}"), "${d.name}", ["${field.name}"], unique=False)
% endif
% endfor
</%def>\
<%def name="drop()">\
    op.drop_table("${d.name}")
</%def>\
"""${message}."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = ${repr(revision)}
down_revision: str | None = ${repr(down_revision)}
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
${drop() if drops else create()}


def downgrade() -> None:
${create() if drops else drop()}
