//! The report as one HTML page: a table and charts, drawn here as SVG. Nothing is loaded from
//! elsewhere and nothing runs in it; it follows the reader's choice of light or dark.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::report::{Measured, Report, Row, State};
use super::routes::Route;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #59636e; --line: #d1d9e0; --page: #ffffff;
  --bar: #2f6fb3; --more: #a9c8e8; --best: #1a7f4b; --far: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9aa4ae; --line: #343b43;
  --page: #14181d; --bar: #5a9bdc; --more: #2f4d6c; --best: #45b97c; --far: #ef7565; } }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1rem; margin: 2rem 0 .25rem; }
p, li, caption, dd { color: var(--dim); } .verdict { color: var(--ink); font-size: 1.1rem; }
.table { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.remark { text-align: left;
  white-space: normal; min-width: 6rem; color: var(--dim); }
.best { color: var(--best); font-weight: 600; } .far { color: var(--far); font-weight: 600; }
svg { width: 100%; max-width: 62rem; height: auto; display: block; } svg text { font: 13px system-ui, sans-serif;
  fill: var(--ink); font-variant-numeric: tabular-nums; } svg .dim { fill: var(--dim); }
svg .bar { fill: var(--bar); } svg .more { fill: var(--more); } svg .winner { fill: var(--best); }
svg .aside { fill: var(--dim); }
svg .over { fill: var(--far); } svg line { stroke: var(--line); }
svg .limit { stroke: var(--far); stroke-dasharray: 4 3; }
";

// Of the charts, in SVG's units.
const WIDTH: f64 = 900.0;
const LABELS_WIDTH: f64 = 180.0;
const VALUES_WIDTH: f64 = 170.0;
const ROW_HEIGHT: f64 = 30.0;
const BAR_HEIGHT: f64 = 18.0;
/// The smallest difference that the logarithmic chart tells from none.
const DIFFERENCE_MIN: f64 = 1e-9;

pub(crate) fn page(report: &Report, now: Timestamp) -> String {
    let name = escaped(&report.name);
    let mut body = String::new();
    let mut put = |text: String| body.push_str(&text);
    put(format!("<h1>{name}: routes compared</h1>\n"));
    put(format!(
        "<p>Dunlin {} on {} {} with {} processors, {}</p>\n",
        report.version,
        report.machine.os,
        report.machine.architecture,
        report.machine.cpus,
        now.strftime("%Y-%m-%d %H:%M UTC"),
    ));
    put(format!(
        "<p class=\"verdict\">{}</p>\n",
        escaped(&verdict(report))
    ));
    put(table(report));
    put(charts(report));
    put("<h2>How it was measured</h2>\n<ul>\n".to_owned());
    for line in method(report) {
        put(format!("<li>{}</li>\n", escaped(&line)));
    }
    put("</ul>\n".to_owned());
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>{name}: routes compared</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n{body}</body>\n</html>\n"
    )
}

/// In one sentence: which is best, and whether all are near enough.
pub(crate) fn verdict(report: &Report) -> String {
    let best = match &report.best {
        Some(best) => format!("best: {} ({})", best.route.name(), best.why),
        None => "no route is within the tolerance and could be timed".to_owned(),
    };
    let far: Vec<&str> = report
        .routes
        .iter()
        .filter(|row| !row.is_within_tolerance())
        .map(|row| row.route.name())
        .collect();
    match far.is_empty() {
        true => best,
        false => format!("{best}; beyond the tolerance: {}", far.join(", ")),
    }
}

/// What a reader needs to judge the numbers, or to repeat them.
pub(crate) fn method(report: &Report) -> Vec<String> {
    let mut lines = vec![format!(
        "differences: from the golden samples of the original module, {} rows; tolerance {:e} + \
         {:e} × the value",
        report.golden_rows, report.tolerance.absolute, report.tolerance.relative
    )];
    if let Some(reference) = report.reference.filter(|_| report.requests > 0) {
        lines.push(format!(
            "answers: compared with those of {}",
            reference.name()
        ));
    }
    lines.push(format!(
        "times: {} for {} s, {} at a time, over HTTP to a node of each route's own",
        report.timed, report.duration_seconds, report.concurrency
    ));
    lines.extend(report.notes.iter().cloned());
    lines
}

fn table(report: &Report) -> String {
    let mut html = String::from("<div class=\"table\"><table>\n<tr>");
    for header in ["route", "difference", "relative", "labels", "answers"] {
        let _ = write!(html, "<th>{header}</th>");
    }
    for header in ["p50", "p99", "requests/s", "load", "memory", ""] {
        let _ = write!(html, "<th>{header}</th>");
    }
    html.push_str("</tr>\n");
    for row in &report.routes {
        let class = match row {
            row if is_best(report, row) => " class=\"best\"",
            row if !row.is_within_tolerance() => " class=\"far\"",
            _ => "",
        };
        let _ = write!(html, "<tr><td{class}>{}</td>", row.route.name());
        let cells = row.measured().map(Cells::of);
        match cells {
            Some(cells) => {
                for cell in cells.all() {
                    let _ = write!(html, "<td>{}</td>", escaped(&cell));
                }
                let mut remarks = vec![row.remark()];
                if is_best(report, row) {
                    remarks.insert(0, "best".to_owned());
                }
                if row.route == Route::Original {
                    remarks.insert(0, "without HTTP".to_owned());
                }
                remarks.retain(|remark| !remark.is_empty());
                let remarks = escaped(&remarks.join("; "));
                let _ = writeln!(html, "<td class=\"remark\">{remarks}</td></tr>");
            }
            None => {
                let remark = escaped(&row.remark());
                let _ = writeln!(
                    html,
                    "<td class=\"remark\" colspan=\"10\">{remark}</td></tr>"
                );
            }
        }
    }
    html.push_str("</table></div>\n");
    html
}

/// The numbers of a row as they are shown, here and in the terminal; empty where there is none.
pub(crate) struct Cells {
    pub(crate) difference: String,
    pub(crate) relative: String,
    pub(crate) labels: String,
    pub(crate) answers: String,
    pub(crate) p50: String,
    pub(crate) p99: String,
    pub(crate) rate: String,
    pub(crate) load: String,
    pub(crate) memory: String,
}

impl Cells {
    pub(crate) fn of(measured: &Measured) -> Self {
        let share = |share: Option<super::difference::Agreement>| {
            share.map_or(String::new(), |share| {
                format!("{}/{}", share.agree, share.of)
            })
        };
        let difference = measured.difference.as_ref();
        let speed = measured.speed.as_ref();
        let ms = |value: f64| format!("{value:.3}ms");
        Self {
            difference: difference.map_or(String::new(), |d| scientific(d.absolute)),
            relative: difference.map_or(String::new(), |d| scientific(d.relative)),
            labels: share(measured.labels),
            answers: share(measured.answers),
            p50: speed.map_or(String::new(), |speed| ms(speed.p50_ms)),
            p99: speed.map_or(String::new(), |speed| ms(speed.p99_ms)),
            rate: speed.map_or(String::new(), |speed| {
                format!("{:.0}", speed.requests_per_second)
            }),
            load: format!("{:.2}s", measured.load_ms / 1e3),
            memory: measured.resident_bytes.map_or(String::new(), |bytes| {
                format!("{:.1}MiB", bytes as f64 / f64::from(1 << 20))
            }),
        }
    }

    fn all(self) -> [String; 9] {
        [
            self.difference,
            self.relative,
            self.labels,
            self.answers,
            self.p50,
            self.p99,
            self.rate,
            self.load,
            self.memory,
        ]
    }
}

fn scientific(value: f64) -> String {
    match value {
        0.0 => "0".to_owned(),
        value if value.is_infinite() => "inf".to_owned(),
        value => format!("{value:.1e}"),
    }
}

/// How long a row's bar is, how far its continuation goes, and what is written beside it.
type Shown = (f64, Option<f64>, String);

/// One bar of a chart.
struct Bar {
    route: Route,
    class: &'static str,
    value: f64,
    /// A lighter continuation of the bar.
    beyond: Option<f64>,
    text: String,
}

fn charts(report: &Report) -> String {
    let mut html = String::new();
    let bars = |value: &dyn Fn(&Measured) -> Option<Shown>| -> Vec<Bar> {
        let measured = report
            .routes
            .iter()
            .filter_map(|row| Some((row, row.measured()?)));
        measured
            .filter_map(|(row, measured)| {
                let (value, beyond, text) = value(measured)?;
                let class = match row.route {
                    Route::Original => "aside",
                    _ if is_best(report, row) => "winner",
                    _ => "bar",
                };
                Some(Bar {
                    route: row.route,
                    class,
                    value,
                    beyond,
                    text,
                })
            })
            .collect()
    };
    let latency = bars(&|measured| {
        let speed = measured.speed?;
        let text = format!("{:.3} ms, p99 {:.3} ms", speed.p50_ms, speed.p99_ms);
        Some((speed.p50_ms, Some(speed.p99_ms), text))
    });
    html.push_str(&chart(
        "Time of an answer: p50, lighter up to p99",
        &latency,
    ));
    let rate = bars(&|measured| {
        let rate = measured.speed?.requests_per_second;
        Some((rate, None, format!("{rate:.0} /s")))
    });
    html.push_str(&chart("Requests a second: longer is better", &rate));
    let memory = bars(&|measured| {
        let mebibytes = measured.resident_bytes? as f64 / f64::from(1 << 20);
        Some((mebibytes, None, format!("{mebibytes:.1} MiB")))
    });
    html.push_str(&chart(
        "Resident memory of the process after the run",
        &memory,
    ));
    let load = bars(&|measured| {
        let text = format!("{:.2} s", measured.load_ms / 1e3);
        Some((measured.load_ms, None, text))
    });
    html.push_str(&chart("Load: from the upload until it answers", &load));
    html.push_str(&difference_chart(report));
    html
}

/// Bars from zero on a linear scale. Empty where there is nothing to draw.
fn chart(title: &str, bars: &[Bar]) -> String {
    let largest = bars
        .iter()
        .map(|bar| bar.beyond.unwrap_or(bar.value).max(bar.value));
    let largest = largest.fold(0.0, f64::max);
    if largest <= 0.0 {
        return String::new();
    }
    let scale = (WIDTH - LABELS_WIDTH - VALUES_WIDTH) / largest;
    draw(title, bars, |value| value * scale, None)
}

/// On a logarithmic scale, with a line at the absolute tolerance.
fn difference_chart(report: &Report) -> String {
    let limit = report.tolerance.absolute.max(DIFFERENCE_MIN);
    let bars: Vec<Bar> = report
        .routes
        .iter()
        .filter_map(|row| {
            let difference = row.measured()?.difference.as_ref()?;
            let far = !row.is_within_tolerance();
            Some(Bar {
                route: row.route,
                class: if far { "over" } else { "bar" },
                value: difference.absolute,
                beyond: None,
                text: scientific(difference.absolute),
            })
        })
        .collect();
    if bars.is_empty() {
        return String::new();
    }
    let finite = bars
        .iter()
        .map(|bar| bar.value)
        .filter(|value| value.is_finite());
    let largest = finite.fold(limit * 10.0, f64::max);
    let decades = (largest / DIFFERENCE_MIN).log10();
    let width = WIDTH - LABELS_WIDTH - VALUES_WIDTH;
    let place = |value: f64| {
        let value = value.clamp(DIFFERENCE_MIN, largest);
        (value / DIFFERENCE_MIN).log10() / decades * width
    };
    let title = "Largest difference from the original, logarithmic; the line is the tolerance";
    draw(title, &bars, place, Some(limit))
}

fn draw(title: &str, bars: &[Bar], place: impl Fn(f64) -> f64, limit: Option<f64>) -> String {
    let height = ROW_HEIGHT * bars.len() as f64 + 6.0;
    let mut svg = format!(
        "<h2>{title}</h2>\n<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"{title}\">\n"
    );
    for (index, bar) in bars.iter().enumerate() {
        let top = ROW_HEIGHT * index as f64 + (ROW_HEIGHT - BAR_HEIGHT) / 2.0;
        let middle = top + BAR_HEIGHT / 2.0;
        let name = match bar.route {
            Route::Original => "original/python, no HTTP",
            route => route.name(),
        };
        let text = escaped(&bar.text);
        let _ = writeln!(
            svg,
            "<g><title>{name}: {text}</title><text x=\"{:.1}\" y=\"{middle:.1}\" \
             text-anchor=\"end\" dominant-baseline=\"central\">{name}</text>",
            LABELS_WIDTH - 10.0
        );
        let mut end = place(bar.value).max(1.0);
        if let Some(beyond) = bar.beyond {
            end = end.max(place(beyond));
            let _ = writeln!(
                svg,
                "{}",
                rectangle("more", top + 5.0, end, BAR_HEIGHT - 10.0)
            );
        }
        let own = place(bar.value).max(1.0);
        let _ = writeln!(svg, "{}", rectangle(bar.class, top, own, BAR_HEIGHT));
        let _ = writeln!(
            svg,
            "<text class=\"dim\" x=\"{:.1}\" y=\"{middle:.1}\" \
             dominant-baseline=\"central\">{text}</text></g>",
            LABELS_WIDTH + end + 8.0
        );
    }
    let _ = writeln!(
        svg,
        "<line x1=\"{LABELS_WIDTH}\" y1=\"0\" x2=\"{LABELS_WIDTH}\" y2=\"{height}\"/>"
    );
    if let Some(limit) = limit {
        let x = LABELS_WIDTH + place(limit);
        let _ = writeln!(
            svg,
            "<line class=\"limit\" x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{height}\">\
             <title>tolerance {limit:e}</title></line>"
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn rectangle(class: &str, top: f64, width: f64, height: f64) -> String {
    format!(
        "<rect class=\"{class}\" x=\"{LABELS_WIDTH}\" y=\"{top:.1}\" width=\"{width:.1}\" \
         height=\"{height:.1}\" rx=\"2\"/>"
    )
}

fn is_best(report: &Report, row: &Row) -> bool {
    matches!(row.state, State::Ran(_))
        && report
            .best
            .as_ref()
            .is_some_and(|best| best.route == row.route)
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_elsewhere_stays_text() {
        assert_eq!(
            escaped("<b a=\"1\">&\u{1b}"),
            "&lt;b a=&quot;1&quot;&gt;&amp; "
        );
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |value, beyond| Bar {
            route: Route::OnnxOnTract,
            class: "bar",
            value,
            beyond,
            text: "x".to_owned(),
        };
        let drawn = chart("t", &[bar(1.0, Some(2.0)), bar(0.5, None)]);
        let width = WIDTH - LABELS_WIDTH - VALUES_WIDTH;
        for share in [1.0, 0.5, 0.25] {
            let expected = format!("width=\"{:.1}\"", width * share);
            assert!(drawn.contains(&expected), "{expected} in {drawn}");
        }
        assert_eq!(chart("t", &[bar(0.0, None)]), "");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(scientific(0.0), "0");
        assert_eq!(scientific(0.000_012_34), "1.2e-5");
        assert_eq!(scientific(f64::INFINITY), "inf");
    }
}
