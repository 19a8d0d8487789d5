"""Reports of one pipeline under several protocols, in one table."""

from __future__ import annotations

import json
from collections.abc import Iterable

from attrs import field, frozen

from clouds.evaluation import html
from clouds.evaluation.report import Report


def _to_reports(value: Iterable[Report]) -> tuple[Report, ...]:
    return tuple(value)


@frozen
class ProtocolReports:
    """Reports of the same pipeline and datasets, one per protocol, in the order of evaluation."""

    reports: tuple[Report, ...] = field(converter=_to_reports)

    @property
    def unmeasured(self) -> tuple[str, ...]:
        """Domains without a labelled pixel."""
        return self.reports[0].unmeasured

    def to_text(self) -> str:
        """mIoU of protocols x domains for a terminal, and a line with the settings of each protocol."""
        header, rows = self._table()
        return "\n".join([html.text_table(header, rows), *(report.settings for report in self.reports)])

    def to_json(self) -> str:
        """JSON text: the document of `Report.to_json` by protocol."""
        documents = {report.protocol: json.loads(report.to_json()) for report in self.reports}
        return json.dumps({"protocols": documents}, indent=2, allow_nan=False)

    def to_html(self) -> str:
        """A self-contained page: the table, and the settings of each protocol."""
        header, rows = self._table()
        sections = [
            html.Section(title="mIoU in percent", content=[html.table(header, rows, bars=True)]),
            html.Section(title="Protocols", content=[html.text(report.settings) for report in self.reports]),
        ]
        return html.page("Evaluation", sections, subtitle=f"{len(self.reports)} protocols")

    def _table(self) -> tuple[list[str], list[list[html.Cell]]]:
        domains = list(self.reports[0].domains)
        rows = [[one.protocol, *(one.per_domain[name] for name in domains), one.miou] for one in self.reports]
        return ["protocol", *domains, "mean"], rows
