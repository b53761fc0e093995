//! Holds the points of a curve: how a cost grows with a size.

use serde::{Deserialize, Serialize};

/// A few costs over the same sizes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Curve {
    /// Name of the picture's file.
    pub name: String,
    pub title: String,
    /// What the sizes count.
    pub over: String,
    pub unit: String,
    pub series: Vec<Series>,
}

/// One cost.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Series {
    pub name: String,
    pub points: Vec<Point>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Point {
    pub size: f64,
    #[serde(serialize_with = "super::figure::rounded")]
    pub cost: f64,
}

impl Curve {
    pub fn new(name: &str, title: &str, over: &str, unit: &str) -> Self {
        Self { name: name.to_owned(), title: title.to_owned(), over: over.to_owned(), unit: unit.to_owned(), series: Vec::new() }
    }

    /// Adds a point to the series of that name. The first point creates the series.
    pub fn point(&mut self, series: &str, size: f64, cost: f64) {
        let point = Point { size, cost };
        match self.series.iter_mut().find(|known| known.name == series) {
            Some(known) => known.points.push(point),
            None => self.series.push(Series { name: series.to_owned(), points: vec![point] }),
        }
    }
}
