//! What a window is called and which rows it holds.

use std::fmt;

use crate::AsOf;

/// A span of calendar days that ends at as_of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Window {
    /// `Nd`: rows with `as_of − N days ≤ event_time < as_of`.
    Days(u32),
    /// Everything before as_of.
    Lifetime,
}

impl Window {
    /// Reads `30d` or `lifetime`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Window> {
        if text == "lifetime" {
            return Some(Window::Lifetime);
        }
        let days = text.strip_suffix('d')?;
        let digits = !days.is_empty() && days.bytes().all(|b| b.is_ascii_digit());
        days.parse().ok().filter(|days| digits && (1..=36_500).contains(days)).map(Window::Days)
    }

    /// The first instant inside it; `None` where it has none.
    pub fn start(self, as_of: AsOf) -> Option<AsOf> {
        match self {
            Window::Days(days) => Some(as_of.minus_days(u64::from(days))),
            Window::Lifetime => None,
        }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Window::Days(days) => write!(f, "{days}d"),
            Window::Lifetime => f.write_str("lifetime"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_a_number_of_days_or_a_lifetime() {
        assert_eq!(Window::parse("30d"), Some(Window::Days(30)));
        assert_eq!(Window::parse("lifetime"), Some(Window::Lifetime));
        for wrong in ["30x", "d", "0d", "+3d", "30", "-1d", "99999999999d", "Lifetime"] {
            assert_eq!(Window::parse(wrong), None, "{wrong}");
        }
    }
}
