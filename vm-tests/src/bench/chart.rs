//! The picture: bars by contender, in two panels, on logarithmic scales. Plain SVG, written by hand.

use std::fmt::Write as _;

use super::probe::{Direction, Probe};
use super::table::{Cells, ON_A_TAP};

const WIDTH: f64 = 960.0;
const PANEL_HEIGHT: f64 = 300.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 70.0;
/// Between the panels: labels of the upper one, title of the lower one.
const GAP: f64 = 90.0;
const BAR_WIDTH: f64 = 26.0;
/// Kernel, relay, peer, ours; distinguishable without colour vision by their lightness.
const COLOURS: [&str; 4] = ["#c9ced6", "#8fa3bf", "#e0a458", "#1f6f5c"];

/// A group of bars: its label in two lines, and where its numbers are.
type Group = ([String; 2], Probe, &'static str);

pub(super) fn draw(cells: &Cells) -> String {
    let height = TOP + 2.0 * PANEL_HEIGHT + GAP + 60.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (at, (contender, colour)) in ON_A_TAP.into_iter().zip(COLOURS).enumerate() {
        let x = LEFT + 130.0 * to_f64(at);
        let _ = writeln!(svg, "<rect x=\"{x}\" y=\"14\" width=\"14\" height=\"14\" fill=\"{colour}\"/>");
        let _ = writeln!(svg, "<text x=\"{}\" y=\"26\">{}</text>", x + 20.0, contender.name());
    }
    let streams =
        Panel { title: "TCP, one flow, Gbit/s", top: TOP, decades: (-2, 2), groups: stream_groups() };
    streams.draw(&mut svg, cells);
    let top = TOP + PANEL_HEIGHT + GAP;
    let rates = Panel { title: "operations per second", top, decades: (2, 6), groups: rate_groups() };
    rates.draw(&mut svg, cells);
    svg.push_str("</svg>\n");
    svg
}

fn stream_groups() -> Vec<Group> {
    let mut groups = Vec::new();
    for mtu in [1500, 9000, 65520] {
        for (direction, name) in [(Direction::Out, "guest → outside"), (Direction::In, "outside → guest")]
        {
            let probe = Probe::Stream { direction, mtu, flows: 1 };
            groups.push(([format!("MTU {mtu}"), name.to_owned()], probe, "gbit_per_second"));
        }
    }
    groups
}

fn rate_groups() -> Vec<Group> {
    let label = |first: &str, second: &str| [first.to_owned(), second.to_owned()];
    vec![
        (label("TCP", "request/response"), Probe::Rr, "per_second"),
        (
            label("the same beside", "18 000 connections"),
            Probe::Hold { count: 18_000 },
            "rr_during_per_second",
        ),
        (label("the same, 25 000", "asked for"), Probe::Hold { count: 25_000 }, "rr_during_per_second"),
        (label("TCP connections", "1 client"), Probe::Crr { flows: 1 }, "per_second"),
        (label("TCP connections", "8 clients"), Probe::Crr { flows: 8 }, "per_second"),
        (label("UDP", "request/response"), Probe::UdpRr, "per_second"),
    ]
}

#[derive(Debug)]
struct Panel {
    title: &'static str,
    top: f64,
    /// Powers of ten at the bottom and at the top.
    decades: (i32, i32),
    groups: Vec<Group>,
}

impl Panel {
    fn draw(&self, svg: &mut String, cells: &Cells) {
        let bottom = self.top + PANEL_HEIGHT;
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{}\" font-size=\"14\" font-weight=\"bold\">{} (logarithmic)</text>",
            self.top - 14.0,
            self.title
        );
        for decade in self.decades.0..=self.decades.1 {
            let value = 10_f64.powi(decade);
            let y = self.y(value);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#555\">{}</text>",
                WIDTH - 20.0,
                LEFT - 8.0,
                y + 4.0,
                scale(decade)
            );
        }
        let step = (WIDTH - LEFT - 20.0) / to_f64(self.groups.len());
        for (at, (label, probe, number)) in self.groups.iter().enumerate() {
            let centre = LEFT + step * (to_f64(at) + 0.5);
            for (line, text) in label.iter().enumerate() {
                let y = bottom + 18.0 + 15.0 * to_f64(line);
                let _ =
                    writeln!(svg, "<text x=\"{centre:.1}\" y=\"{y}\" text-anchor=\"middle\">{text}</text>");
            }
            for (bar, (contender, colour)) in ON_A_TAP.into_iter().zip(COLOURS).enumerate() {
                let x = centre + (to_f64(bar) - 2.0) * BAR_WIDTH;
                self.draw_bar(svg, x, colour, cells.median(contender, *probe, number));
            }
        }
    }

    fn draw_bar(&self, svg: &mut String, x: f64, colour: &str, value: Option<f64>) {
        let middle = x + BAR_WIDTH / 2.0;
        let bottom = self.top + PANEL_HEIGHT;
        let Some(value) = value else {
            let y = bottom - 4.0;
            let _ = writeln!(
                svg,
                "<text x=\"{middle:.1}\" y=\"{y}\" text-anchor=\"middle\" fill=\"#888\">-</text>"
            );
            return;
        };
        let y = self.y(value);
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{}\" height=\"{:.1}\" fill=\"{colour}\"/>\
             <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"10\">{}</text>",
            BAR_WIDTH - 2.0,
            bottom - y,
            y - 4.0,
            short(value)
        );
    }

    fn y(&self, value: f64) -> f64 {
        let (low, high) = (f64::from(self.decades.0), f64::from(self.decades.1));
        let share = (value.max(f64::MIN_POSITIVE).log10().clamp(low, high) - low) / (high - low);
        self.top + PANEL_HEIGHT * (1.0 - share)
    }
}

/// A power of ten, as short as it goes.
fn scale(decade: i32) -> String {
    match decade {
        6.. => format!("{}M", 10_f64.powi(decade - 6)),
        3..6 => format!("{}k", 10_f64.powi(decade - 3)),
        _ => 10_f64.powi(decade).to_string(),
    }
}

/// Fits above a bar.
fn short(value: f64) -> String {
    match value {
        value if value >= 10_000.0 => format!("{:.0}k", value / 1000.0),
        value if value >= 1000.0 => format!("{:.1}k", value / 1000.0),
        value if value >= 10.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a handful")]
fn to_f64(count: usize) -> f64 {
    count as f64
}
