//! "Did you mean …?": the known name that a wrong one was probably meant to be.

/// The hint for a wrong name: ``did you mean `x`?``, if one of the known names is close.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest_name(wrong, known).map(|name| format!("did you mean `{name}`?"))
}

/// The known name closest to `wrong`, if it is close: a third of the letters may differ, or one begins the other.
pub fn nearest_name<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    if wrong.is_empty() {
        return None;
    }
    known
        .into_iter()
        .filter_map(|name| distance(&wrong, &name.to_lowercase()).map(|distance| (distance, name)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The letters that differ, or `None` where the names have too little in common.
fn distance(wrong: &str, known: &str) -> Option<usize> {
    let letters = wrong.chars().count().max(known.chars().count());
    let differ = strsim::damerau_levenshtein(wrong, known);
    let shorter = wrong.chars().count().min(known.chars().count());
    let begins = shorter >= 3 && (wrong.starts_with(known) || known.starts_with(wrong));
    (differ <= (letters / 3).max(1) || begins).then_some(differ).filter(|_| letters > 1)
}

/// Names as a sentence part: `` `a`, `b` or `c` ``.
pub fn listed<'a>(names: impl IntoIterator<Item = &'a str>, last: &str) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        None => "nothing".to_owned(),
        Some((only, [])) => only.clone(),
        Some((end, rest)) => format!("{} {last} {end}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_finds_its_word() {
        assert_eq!(nearest("tabels", ["table", "tables", "views"]).as_deref(), Some("did you mean `tables`?"));
        assert_eq!(nearest_name("Custmer_ID", ["customer_id", "order_id"]), Some("customer_id"));
        assert_eq!(nearest_name("bundel", ["bundle"]), Some("bundle"));
    }

    #[test]
    fn a_word_finds_its_longer_form() {
        assert_eq!(nearest_name("orders", ["orders_lifetime", "visits"]), Some("orders_lifetime"));
        assert_eq!(nearest_name("Europe/Belin", ["Europe/Berlin", "Europe/Dublin"]), Some("Europe/Berlin"));
    }

    #[test]
    fn a_stranger_finds_nothing() {
        assert_eq!(nearest("colour", ["lake", "name", "version"]), None);
        assert_eq!(nearest("", ["a"]), None);
        assert_eq!(nearest("x", ["y"]), None);
    }

    #[test]
    fn names_are_listed_as_a_sentence() {
        assert_eq!(listed(["a", "b", "c"], "or"), "`a`, `b` or `c`");
        assert_eq!(listed(["a"], "or"), "`a`");
        assert_eq!(listed([], "or"), "nothing");
    }
}
