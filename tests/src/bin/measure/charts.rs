//! Small charts for the README: bars, as SVG that reads on a light and on a dark page.

use std::fmt::Write as _;

use crate::{
    contest::{Entry, Window},
    goals::CONNECTIONS,
    kind::{Kind, Setup},
    report::Report,
    workload::Road,
};

/// The files and what is in them.
pub(crate) fn render(report: &Report) -> [(&'static str, String); 3] {
    [
        ("requests.svg", requests(report)),
        ("latency.svg", latency(report)),
        ("memory.svg", memory(report)),
    ]
}

struct Bar {
    name: String,
    value: f64,
    part: Part,
}

/// Which colour a bar has.
#[derive(Clone, Copy)]
enum Part {
    Dunlin,
    Other,
    /// It calls no model.
    Yardstick,
}

fn requests(report: &Report) -> String {
    let bars = digits(report, Window::per_second);
    let title = format!("digits over JSON, {CONNECTIONS} at once: requests a second");
    chart(&title, bars, 0)
}

fn latency(report: &Report) -> String {
    let bars = digits(report, |window| window.answers.p99_us / 1e3);
    let title = format!("digits over JSON, {CONNECTIONS} at once: p99 in milliseconds");
    chart(&title, bars, 1)
}

fn memory(report: &Report) -> String {
    let nodes = report.alone.iter().map(|lone| Bar {
        name: format!("Dunlin, {}", lone.engines.name()),
        value: lone.memory.restarted.resident_mib,
        part: Part::Dunlin,
    });
    let others = report.digits.idle.iter().map(|idle| Bar {
        name: idle.kind.name(),
        value: idle.memory.resident_mib,
        part: Part::Other,
    });
    let title = "idle, digits loaded: resident memory in MiB";
    chart(title, nodes.chain(others).collect(), 0)
}

fn digits(report: &Report, number: impl Fn(&Window) -> f64) -> Vec<Bar> {
    let entries = report.digits.entries.iter();
    let entries = entries.filter(|entry| {
        entry.connections == CONNECTIONS && entry.road == Road::Json && shown(entry.kind)
    });
    let bar = |entry: &Entry| {
        Some(Bar {
            name: entry.kind.name(),
            value: entry.spread(&number)?.median,
            part: match entry.kind {
                Kind::Dunlin(_) => Part::Dunlin,
                kind if kind.infers() => Part::Other,
                _ => Part::Yardstick,
            },
        })
    };
    entries.filter_map(bar).collect()
}

/// The setups of Dunlin that most people have.
fn shown(kind: Kind) -> bool {
    match kind {
        Kind::Hello => false,
        Kind::Dunlin(setup) => matches!(setup, Setup::OnnxRuntime | Setup::Tract),
        _ => true,
    }
}

const WIDTH: f64 = 720.0;
const NAMES: f64 = 250.0;
/// For the number behind the longest bar.
const NUMBER: f64 = 80.0;
const ROW: f64 = 24.0;
const HEAD: f64 = 36.0;

/// An image has no page's style sheet, but it knows whether the reader prefers a dark page.
const STYLE: &str = "text{font:13px system-ui,sans-serif;fill:#24292f}\
    .title{font-weight:600}.dunlin{fill:#c2410c}.other{fill:#6b7280}\
    .yardstick{fill:#6b7280;fill-opacity:.35}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.dunlin{fill:#fb923c}\
    .other,.yardstick{fill:#9ca3af}}";

fn chart(title: &str, bars: Vec<Bar>, decimals: usize) -> String {
    let most = bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let yardsticks = bars.iter().any(|bar| matches!(bar.part, Part::Yardstick));
    let legend = f64::from(u8::from(yardsticks)) * ROW;
    #[expect(clippy::cast_precision_loss, reason = "a dozen")]
    let height = HEAD + bars.len() as f64 * ROW + legend;
    let title = escaped(title);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n<text class=\"title\" x=\"0\" y=\"16\">{title}</text>\n"
    );
    let mut y = HEAD;
    for bar in bars {
        let length = (WIDTH - NAMES - NUMBER) * bar.value / most.max(f64::MIN_POSITIVE);
        let class = match bar.part {
            Part::Dunlin => "dunlin",
            Part::Other => "other",
            Part::Yardstick => "yardstick",
        };
        let text = y + ROW / 2.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{text}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{NAMES}\" y=\"{}\" width=\"{:.1}\" height=\"16\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{text}\">{:.decimals$}</text>",
            NAMES - 8.0,
            escaped(&bar.name),
            y - 4.0,
            length.max(1.0),
            NAMES + length + 6.0,
            bar.value,
        );
        y += ROW;
    }
    if yardsticks {
        let _ = writeln!(
            svg,
            "<text x=\"{NAMES}\" y=\"{}\">pale: parses the same JSON and calls no model</text>",
            y + ROW / 2.0
        );
    }
    svg + "</svg>\n"
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_chart_and_text_is_escaped() {
        let bar = |name: &str, value, part| Bar {
            name: name.to_owned(),
            value,
            part,
        };
        let bars = vec![
            bar("a < b & \"c\"", 50.0, Part::Dunlin),
            bar("half", 25.0, Part::Yardstick),
        ];
        let svg = chart("title", bars, 1);
        assert!(svg.contains("a &lt; b &amp; &quot;c&quot;"), "{svg}");
        assert!(svg.contains("width=\"390.0\" height=\"16\""), "{svg}");
        assert!(svg.contains("width=\"195.0\" height=\"16\""), "{svg}");
        assert!(
            svg.contains(">25.0</text>") && svg.contains("calls no model"),
            "{svg}"
        );
    }

    #[test]
    fn nothing_to_show_is_no_division_by_zero() {
        let svg = chart("title", Vec::new(), 0);
        assert!(!svg.contains("NaN"), "{svg}");
    }
}
