//! Where things are and how long a round trip between two places takes, in integers.

use crate::demand::Place;

/// The radius of the globe in the units of [`Point`].
const RADIUS_UNITS: i64 = 32_767;
/// The radius of the globe in kilometres.
const RADIUS_KM: u64 = 6_371;
/// What a round trip takes in any case beyond the way itself.
const ROUND_TRIP_BASE_US: u64 = 1_000;

/// A place as a vector from the middle of the globe; its length is [`RADIUS_UNITS`] within half a per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Point(pub(super) [i16; 3]);

impl Point {
    pub(super) fn of(place: Place) -> Self {
        let (latitude, longitude) = (i64::from(place.latitude_mdeg()), i64::from(place.longitude_mdeg()));
        let (north, around) = (sine(latitude), cosine(latitude));
        let x = around * cosine(longitude) / RADIUS_UNITS;
        let y = around * sine(longitude) / RADIUS_UNITS;
        Self([x, y, north].map(|v| i16::try_from(v.clamp(-RADIUS_UNITS, RADIUS_UNITS)).unwrap_or(0)))
    }
}

/// The sine of thousandths of a degree (within ±180,000), times [`RADIUS_UNITS`], by Bhaskara's formula: at most
/// 0.17 % of the radius off, some 10 km, which is a tenth of a millisecond.
fn sine(mdeg: i64) -> i64 {
    let x = mdeg.abs().min(180_000);
    let product = x * (180_000 - x);
    let value = 4 * product * RADIUS_UNITS / (40_500_000_000 - product);
    if mdeg < 0 { -value } else { value }
}

fn cosine(mdeg: i64) -> i64 {
    let turned = mdeg + 90_000;
    sine(if turned > 180_000 { turned - 360_000 } else { turned })
}

/// A box around points, to bound the distance to any of them from below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Around {
    low: [i16; 3],
    high: [i16; 3],
}

impl Around {
    /// Around nothing.
    pub(super) const NOTHING: Self = Self { low: [i16::MAX; 3], high: [i16::MIN; 3] };

    pub(super) const fn point(point: Point) -> Self {
        Self { low: point.0, high: point.0 }
    }

    pub(super) fn extend(&mut self, other: &Self) {
        for axis in 0..3 {
            self.low[axis] = self.low[axis].min(other.low[axis]);
            self.high[axis] = self.high[axis].max(other.high[axis]);
        }
    }

    /// No point of the box is nearer than this chord, in units.
    fn chord_min(&self, from: Point) -> u64 {
        let mut squares = 0u64;
        for axis in 0..3 {
            let (at, low, high) = (i64::from(from.0[axis]), i64::from(self.low[axis]), i64::from(self.high[axis]));
            let off = (low - at).max(at - high).max(0).unsigned_abs();
            squares = squares.saturating_add(off * off);
        }
        squares.isqrt()
    }

    /// No round trip to a point of the box is shorter: one that may be measured, than light in fibre allows.
    pub(super) fn round_trip_us_min(&self, from: Point, may_be_measured: bool) -> u64 {
        let least = round_trip_us_least(self.chord_min(from));
        if may_be_measured { least } else { estimate_us(least) }
    }
}

/// Light in fibre goes 200 km in a millisecond, so a round trip takes 10 microseconds a kilometre. The way is
/// taken straight through the globe, which is never longer than the way around it.
const fn round_trip_us_least(chord_units: u64) -> u64 {
    chord_units * RADIUS_KM * 10 / RADIUS_UNITS.unsigned_abs()
}

/// A round trip between two places: what was measured, though never less than light needs; where nothing was
/// measured, a millisecond and twice what light needs.
pub(super) fn round_trip_us(from: Point, to: Point, measured_us: Option<u64>) -> u64 {
    let least = round_trip_us_least(Around::point(to).chord_min(from));
    measured_us.map_or(estimate_us(least), |measured| measured.max(least))
}

const fn estimate_us(least_us: u64) -> u64 {
    ROUND_TRIP_BASE_US + 2 * least_us
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(latitude_mdeg: i32, longitude_mdeg: i32) -> Point {
        Point::of(Place::new(latitude_mdeg, longitude_mdeg).unwrap())
    }

    #[test]
    fn known_distances() {
        let (zurich, frankfurt, new_york, sydney) =
            (at(47_377, 8_541), at(50_110, 8_682), at(40_713, -74_006), at(-33_869, 151_209));
        // 304 km, 6,320 km (chord 6,070 km) and 16,600 km (chord 12,300 km).
        let ms = |a, b| round_trip_us(a, b, None) / 1000;
        assert_eq!(ms(zurich, zurich), 1);
        assert!((6..=8).contains(&ms(zurich, frankfurt)), "{}", ms(zurich, frankfurt));
        assert!((118..=126).contains(&ms(zurich, new_york)), "{}", ms(zurich, new_york));
        assert!((240..=252).contains(&ms(zurich, sydney)), "{}", ms(zurich, sydney));
        assert_eq!(round_trip_us(zurich, frankfurt, Some(5_500)), 5_500);
        assert!(round_trip_us(zurich, new_york, Some(1)) > 55_000, "faster than light is a lie");
    }

    proptest! {
        #[test]
        fn a_box_never_bounds_too_high(
            points in prop::collection::vec((-90_000i32..=90_000, -180_000i32..=180_000), 1..10),
            from in (-90_000i32..=90_000, -180_000i32..=180_000),
        ) {
            let from = at(from.0, from.1);
            let mut around = Around::NOTHING;
            for (lat, lon) in &points {
                around.extend(&Around::point(at(*lat, *lon)));
            }
            for (lat, lon) in points {
                prop_assert!(around.round_trip_us_min(from, false) <= round_trip_us(from, at(lat, lon), None));
                prop_assert!(around.round_trip_us_min(from, true) <= round_trip_us(from, at(lat, lon), Some(0)));
            }
        }
    }
}
