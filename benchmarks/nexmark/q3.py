"""q3: local item suggestion. Who sells in Oregon, Idaho or California in category 10, and which auctions?"""

from __future__ import annotations

import flinkray as fr
from flinkray import col

from .streams import Nexmark

SQL = """
SELECT p.name, p.city, p.state, a.id
FROM auction a JOIN person p ON a.seller = p.id
WHERE a.category = 10 AND p.state IN ('OR', 'ID', 'CA')
"""


def build(nexmark: Nexmark) -> fr.DataStream:
    auctions = nexmark.auctions().filter(col("category") == 10).select("id", "seller")
    people = nexmark.people().filter(col("state").is_in(["OR", "ID", "CA"])).select("name", "city", "state", person=col("id"))
    return auctions.key_by("seller").join(people.key_by("person")).uid("local").select("name", "city", "state", "id")
