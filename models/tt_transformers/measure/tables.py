"""Parts of the documents that are written from records."""


def provenance(records: dict) -> str:
    """Date, place, versions and revision of records (label -> record): one line per set that agrees in all of them."""
    groups = {}
    for label, record in records.items():
        versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        features = f" ({', '.join(record['cpu']['features'])})" if "cpu" in record else ""
        line = (
            f"measured {record['created'][:10]} on the {record['backend']}, {record['machine']}{features}; {versions}; "
            f"revision {record['git_revision']}."
        )
        groups.setdefault(line, []).append(label)
    if len(groups) == 1:
        (line,) = groups
        return line[0].upper() + line[1:]
    return "\n".join(f"- {', '.join(labels)}: {line}" for line, labels in groups.items())


def table(header, rows, numbers_from=1):
    rule = ["---" if index < numbers_from else "---:" for index in range(len(header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, rule, *rows])
