//! The lines of the sidecar: nobody to compare with, only limits to keep.

use super::{Columns, Line, Table, Target};
use crate::bench::contender::Contender;
use crate::bench::probe::Probe;

pub(super) fn sidecar() -> Table {
    let line = |number, title: &str, unit| Line::new(Probe::Life, number, title, unit);
    let lines = vec![
        line("ready_ms", "start, until Info is answered", "ms").wants([Target::Most(100.0)]),
        line("info_ms", "Info", "ms"),
        line("first_define_ms", "OnDefineDomain: the first, starts a translator", "ms"),
        line("next_define_ms", "OnDefineDomain: the slower of two more", "ms"),
        line("scrape_ms", "metrics", "ms"),
        line("resident_mib", "resident memory after all these, without the translator's", "MiB")
            .wants([Target::Most(10.0)]),
        line("replaced_ms", "translator killed, until its socket listens again", "ms"),
        line("end_ms", "Shutdown, until the sidecar has ended", "ms").wants([Target::Most(2000.0)]),
    ];
    Table {
        heading: "The sidecar",
        prefix: "sidecar-",
        contenders: &[Contender::Sidecar],
        ours: Contender::Sidecar,
        references: &[],
        columns: Columns::Spread,
        lines,
    }
}
