//! Kubernetes quantities (`250m`, `64Mi`, `1e3`), parsed once at the door.

/// Why a text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "quantities must be a number with an optional suffix (m, k, M, G, T, Ki, Mi, Gi, Ti or e3), got {0:?}"
)]
pub struct BadQuantity(pub String);

/// Parses a quantity to thousandths, rounding up, as Kubernetes does for `cpu`.
pub fn millis(text: &str) -> Result<u64, BadQuantity> {
    scaled(text, 1000)
}

/// Parses a quantity to whole units, rounding up, as Kubernetes does for `memory` and counts.
pub fn units(text: &str) -> Result<u64, BadQuantity> {
    scaled(text, 1)
}

fn scaled(text: &str, scale: u128) -> Result<u64, BadQuantity> {
    let bad = || BadQuantity(text.to_string());
    let t = text.trim().strip_prefix('+').unwrap_or(text.trim());
    let end = t
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(t.len());
    let (number, suffix) = t.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty())
        || fraction.len() > 18
        || whole.len() > 19
        || fraction.contains('.')
    {
        return Err(bad());
    }
    // value = digits / 10^fraction.len() * multiplier / divisor
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
    let (multiplier, divisor): (u128, u128) = match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        s => {
            let exponent: i32 = s
                .strip_prefix(['e', 'E'])
                .ok_or_else(bad)?
                .parse()
                .map_err(|_| bad())?;
            match exponent {
                0..=18 => (10u128.pow(exponent as u32), 1),
                -18..=-1 => (1, 10u128.pow(exponent.unsigned_abs())),
                _ => return Err(bad()),
            }
        }
    };
    let denominator = 10u128.pow(fraction.len() as u32) * divisor;
    let numerator = digits
        .checked_mul(multiplier)
        .and_then(|n| n.checked_mul(scale))
        .ok_or_else(bad)?;
    u64::try_from(numerator.div_ceil(denominator)).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_parse_as_kubernetes_writes_them() {
        for (text, want) in [
            ("250m", 250),
            ("1", 1000),
            ("0.5", 500),
            ("2", 2000),
            ("1.5", 1500),
            ("100u", 1),
            ("1e3", 1_000_000),
        ] {
            assert_eq!(millis(text), Ok(want), "{text}");
        }
        for (text, want) in [
            ("64Mi", 64 << 20),
            ("1Gi", 1 << 30),
            ("1k", 1000),
            ("128974848", 128_974_848),
            ("1.5Ki", 1536),
            ("1m", 1),
        ] {
            assert_eq!(units(text), Ok(want), "{text}");
        }
        for text in [
            "",
            "abc",
            "1.2.3",
            "1X",
            "-1",
            "1e99",
            "99999999999999999999",
        ] {
            assert!(units(text).is_err(), "{text}");
        }
    }
}
