//! Draws a line chart as SVG, readable on a light and on a dark page.

use super::curve::{Curve, Point, Series};
use super::figure::text;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 400.0;
/// Margins around the plot. The names of the lines are on the right.
const LEFT: f64 = 64.0;
const RIGHT: f64 = 150.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 56.0;
/// Line height of the names.
const LINE: f64 = 17.0;
/// Costs that are further apart than this factor get a logarithmic axis; otherwise all but the largest would lie on the
/// base line.
const FAR_APART: f64 = 20.0;
/// Dark enough for a white page, and light enough for a black one.
const COLOURS: [&str; 9] = ["#2f7ed8", "#d9541e", "#2a9d5c", "#a05cc4", "#b98a00", "#d6457f", "#1797a8", "#7a8b3c", "#8a8a8a"];

/// Maps numbers to coordinates along one side.
struct Axis {
    from: f64,
    to: f64,
    powers: bool,
    ticks: Vec<f64>,
}

impl Axis {
    /// A logarithmic axis with a mark for each size.
    fn of_sizes(points: &[Point]) -> Self {
        let mut ticks: Vec<f64> = points.iter().map(|point| point.size.max(1.0)).collect();
        ticks.sort_unstable_by(f64::total_cmp);
        ticks.dedup();
        let (from, to) = (ticks.first().copied().unwrap_or(1.0), ticks.last().copied().unwrap_or(10.0));
        Self { from, to, powers: true, ticks }
    }

    fn of_costs(points: &[Point]) -> Self {
        let costs = || points.iter().map(|point| point.cost).filter(|cost| *cost > 0.0);
        let (least, most) = (costs().fold(f64::INFINITY, f64::min), costs().fold(0.0, f64::max));
        if most <= 0.0 {
            return Self { from: 0.0, to: 1.0, powers: false, ticks: vec![0.0, 1.0] };
        }
        if most / least > FAR_APART {
            let (low, high) = (least.log10().floor() as i32, most.log10().ceil() as i32);
            let ticks: Vec<f64> = (low..=high).map(|power| 10_f64.powi(power)).collect();
            return Self { from: ticks[0], to: ticks[ticks.len() - 1], powers: true, ticks };
        }
        let rough = most / 5.0;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough).unwrap_or(rough);
        let count = (most / step).ceil() as i32;
        Self { from: 0.0, to: f64::from(count) * step, powers: false, ticks: (0..=count).map(|n| f64::from(n) * step).collect() }
    }

    /// Position along the axis, from 0 to 1.
    fn part(&self, value: f64) -> f64 {
        let place = |value: f64| if self.powers { value.max(f64::MIN_POSITIVE).log10() } else { value };
        let length = place(self.to) - place(self.from);
        if length == 0.0 { 0.5 } else { ((place(value) - place(self.from)) / length).clamp(0.0, 1.0) }
    }
}

fn x(axis: &Axis, size: f64) -> f64 {
    LEFT + axis.part(size) * (WIDTH - LEFT - RIGHT)
}

fn y(axis: &Axis, cost: f64) -> f64 {
    HEIGHT - BOTTOM - axis.part(cost) * (HEIGHT - TOP - BOTTOM)
}

/// `origin` says which bench was measured, and when.
pub fn picture(curve: &Curve, origin: &str) -> String {
    let points: Vec<Point> = curve.series.iter().flat_map(|series| series.points.iter().copied()).collect();
    let (sizes, costs) = (Axis::of_sizes(&points), Axis::of_costs(&points));
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n\
         <title>{}</title>\n\
         <style>\n\
         text {{ font: 12px system-ui, sans-serif; fill: #444 }}\n\
         .title {{ font-size: 15px; font-weight: 600; fill: #111 }}\n\
         .grid {{ stroke: #888; stroke-opacity: .25 }}\n\
         @media (prefers-color-scheme: dark) {{ text {{ fill: #bbb }} .title {{ fill: #eee }} }}\n\
         </style>\n\
         <text class=\"title\" x=\"{LEFT}\" y=\"22\">{}</text>\n\
         <text x=\"{LEFT}\" y=\"40\">{}</text>\n",
        safe(&curve.title),
        safe(&curve.title),
        safe(origin)
    );
    for cost in &costs.ticks {
        let at = y(&costs, *cost);
        svg += &format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>\n", WIDTH - RIGHT);
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{} {}</text>\n",
            LEFT - 8.0,
            at + 4.0,
            short(*cost),
            safe(&curve.unit)
        );
    }
    for size in &sizes.ticks {
        let at = x(&sizes, *size);
        svg += &format!("<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>\n", HEIGHT - BOTTOM);
        svg += &format!("<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n", HEIGHT - BOTTOM + 18.0, short(*size));
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    svg += &format!("<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n", HEIGHT - 14.0, safe(&curve.over));
    for (series, colour) in curve.series.iter().zip(COLOURS.iter().cycle()) {
        svg += &line(series, colour, &sizes, &costs);
    }
    svg + &names(&curve.series, &costs) + "</svg>\n"
}

fn line(series: &Series, colour: &str, sizes: &Axis, costs: &Axis) -> String {
    let places: Vec<(f64, f64)> = series.points.iter().map(|point| (x(sizes, point.size), y(costs, point.cost))).collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let mut svg = format!("<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\n", path.join(" "));
    for ((x, y), point) in places.iter().zip(&series.points) {
        let said = format!("{}: {} at {}", safe(&series.name), text(point.cost), short(point.size));
        svg += &format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"><title>{said}</title></circle>\n");
    }
    svg
}

/// Writes each name at the end of its line, moved down where another name is.
fn names(series: &[Series], costs: &Axis) -> String {
    let end = |series: &Series| series.points.last().map_or(0.0, |point| y(costs, point.cost));
    let mut ends: Vec<(f64, &Series, &str)> =
        series.iter().zip(COLOURS.iter().cycle()).map(|(series, colour)| (end(series), series, *colour)).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    // When many names follow one another, the first may have to begin above the end of its line.
    let room = HEIGHT - BOTTOM + LINE / 2.0;
    let mut free = TOP - LINE;
    let mut svg = String::new();
    for (n, (at, series, colour)) in ends.iter().enumerate() {
        let below = (ends.len() - 1 - n) as f64 * LINE;
        let at = at.max(free + LINE).min(room - below);
        free = at;
        svg += &format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" style=\"fill:{colour}\">{}</text>\n",
            WIDTH - RIGHT + 10.0,
            at + 4.0,
            safe(&series.name)
        );
    }
    svg
}

/// Writes a number as people do: 5 M, 50 k, 0.25.
fn short(value: f64) -> String {
    let digits = |value: f64| {
        let text = format!("{value:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match value {
        value if value >= 1e6 => format!("{} M", digits(value / 1e6)),
        value if value >= 1e4 => format!("{} k", digits((value / 1e3).round())),
        value if value >= 0.01 || value == 0.0 => digits(value),
        value => format!("{value}"),
    }
}

fn safe(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(points: &[(f64, f64)]) -> Curve {
        let mut curve = Curve::new("log", "Costs & <lengths>", "rows", "ms");
        points.iter().for_each(|(size, cost)| curve.point("append", *size, *cost));
        curve
    }

    #[test]
    fn each_point_is_in_the_frame_and_larger_costs_are_higher() {
        let svg = picture(&curve(&[(1e5, 1.0), (1e6, 2.0), (1e7, 4.0)]), "today");
        let places: Vec<Vec<f64>> = svg
            .lines()
            .find_map(|line| line.strip_prefix("<polyline points=\"")?.split('"').next())
            .unwrap()
            .split(' ')
            .map(|pair| pair.split(',').map(|number| number.parse().unwrap()).collect())
            .collect();
        assert_eq!([places[0][0], places[2][0]], [LEFT, WIDTH - RIGHT]);
        assert_eq!(places[1][0], (LEFT + WIDTH - RIGHT) / 2.0, "the axis of sizes is logarithmic");
        assert!(places[0][1] > places[1][1] && places[1][1] > places[2][1] && places[2][1] >= TOP, "{places:?}");
        assert!(svg.contains("Costs &amp; &lt;lengths&gt;") && svg.contains(">10 M<") && !svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn costs_that_are_far_apart_go_by_powers_and_near_ones_begin_at_nothing() {
        let axis = |costs: &[f64]| Axis::of_costs(&costs.iter().map(|cost| Point { size: 1.0, cost: *cost }).collect::<Vec<_>>());
        assert_eq!((axis(&[0.3, 40.0]).powers, axis(&[0.3, 40.0]).ticks), (true, vec![0.1, 1.0, 10.0, 100.0]));
        assert_eq!((axis(&[1.0, 4.0]).powers, axis(&[1.0, 4.0]).ticks), (false, vec![0.0, 1.0, 2.0, 3.0, 4.0]));
        assert_eq!(axis(&[0.0]).ticks, [0.0, 1.0]);
        assert_eq!(axis(&[]).part(0.5), 0.5);
    }

    #[test]
    fn one_point_and_names_at_one_place_are_drawn_too() {
        let mut one = curve(&[(100.0, 5.0)]);
        one.point("resume", 100.0, 5.0);
        let svg = picture(&one, "today");
        let at: Vec<&str> = svg.lines().filter(|line| line.contains("style=\"fill:")).map(|line| line.split('"').nth(3).unwrap()).collect();
        assert!(at.len() == 2 && at[0] != at[1], "{at:?}");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([5e6, 50_000.0, 9000.0, 2.5, 0.25, 0.001, 0.0].map(short), ["5 M", "50 k", "9000", "2.5", "0.25", "0.001", "0"]);
    }
}
