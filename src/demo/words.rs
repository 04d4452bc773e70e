//! What customers write. A review is put together from fragments; its tone is the customer's.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;

/// How a customer feels about an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Delighted,
    Content,
    Indifferent,
    Annoyed,
    /// Annoyed enough not to come back.
    Leaving,
}

const THINGS: [(&str, &[&str]); 6] = [
    ("kitchen", &["The pan", "The knife set", "The kettle", "The baking tin", "The coffee grinder"]),
    ("garden", &["The watering can", "The lantern", "The seed box", "The folding chair", "The pruning shears"]),
    ("books", &["The novel", "The cookbook", "The atlas", "The notebook", "The picture book"]),
    ("toys", &["The puzzle", "The wooden train", "The board game", "The kite", "The building set"]),
    ("sports", &["The yoga mat", "The water bottle", "The rucksack", "The skipping rope", "The bike light"]),
    ("textiles", &["The blanket", "The cushion", "The table cloth", "The towel", "The curtain"]),
];

/// The names of the categories.
pub(super) fn categories() -> impl Iterator<Item = &'static str> {
    THINGS.iter().map(|(category, _)| *category)
}

/// A category by number.
pub(super) fn category(number: usize) -> &'static str {
    THINGS[number % THINGS.len()].0
}

struct Fragments {
    about: &'static [&'static str],
    service: &'static [&'static str],
    end: &'static [&'static str],
}

const fn fragments(tone: Tone) -> Fragments {
    match tone {
        Tone::Delighted => Fragments {
            about: &[
                "is even lovelier than in the pictures.",
                "has been in use every day since it came.",
                "made a wonderful present.",
                "is the best I have had in years.",
                "feels solid and looks beautiful.",
            ],
            service: &[
                "It arrived a day early.",
                "Packed with so much care.",
                "Customer service answered within minutes.",
                "The little note in the parcel made me smile.",
                "",
            ],
            end: &[
                "I have already ordered a second one.",
                "Will be back very soon.",
                "My favourite shop by far.",
                "I tell all my friends about you.",
                "Thank you so much!",
            ],
        },
        Tone::Content => Fragments {
            about: &[
                "does what it should.",
                "is good value for the money.",
                "matches the description.",
                "is well made.",
                "fits nicely.",
            ],
            service: &[
                "Delivery was on time.",
                "Ordering was easy.",
                "The parcel was intact.",
                "No complaints about the service.",
                "",
            ],
            end: &["Happy with it.", "I would buy here again.", "Recommended.", "All in all a good purchase.", ""],
        },
        Tone::Indifferent => Fragments {
            about: &[
                "is okay, nothing special.",
                "is a bit smaller than I thought.",
                "looks different from the picture, but works.",
                "is fine for the price.",
                "could be sturdier.",
            ],
            service: &[
                "Delivery took its time.",
                "The box was larger than it had to be.",
                "The tracking link did not work.",
                "",
                "",
            ],
            end: &["Three stars.", "Not sure yet.", "It will do.", "There may be better ones.", ""],
        },
        Tone::Annoyed => Fragments {
            about: &[
                "came with a scratch.",
                "broke after a week.",
                "is not what I ordered.",
                "feels cheap.",
                "smells of plastic and looks worn already.",
            ],
            service: &[
                "It arrived eight days late.",
                "Nobody answered my messages at first.",
                "I had to ask three times for a refund.",
                "Half of the order was missing.",
                "The parcel was torn open.",
            ],
            end: &[
                "Disappointed.",
                "I expected more.",
                "Please check what you send out.",
                "Too expensive for that quality.",
                "",
            ],
        },
        Tone::Leaving => Fragments {
            about: &[
                "was broken on arrival, again.",
                "is a waste of money.",
                "went straight into the bin.",
                "never worked at all.",
                "is nothing like the picture.",
            ],
            service: &[
                "Still waiting for my money back.",
                "Customer service hung up on me.",
                "Two weeks late and no apology.",
                "They blamed the courier, the courier blamed them.",
                "",
            ],
            end: &[
                "This was my last order.",
                "Never again.",
                "I am closing my account.",
                "From now on I buy elsewhere.",
                "Stay away.",
            ],
        },
    }
}

/// A review of an order in this category.
pub(super) fn review(rng: &mut ChaCha8Rng, category: usize, tone: Tone) -> String {
    let Fragments { about, service, end } = fragments(tone);
    let thing = pick(rng, THINGS[category % THINGS.len()].1);
    let mut text = format!("{thing} {}", pick(rng, about));
    let (service, end) = (pick(rng, service), pick(rng, end));
    let parts = if rng.random_bool(0.5) { [service, end] } else { [end, service] };
    for part in parts.into_iter().filter(|p| !p.is_empty()) {
        text.push(' ');
        text.push_str(part);
    }
    text
}

fn pick(rng: &mut ChaCha8Rng, choices: &[&'static str]) -> &'static str {
    choices.choose(rng).copied().unwrap_or_default()
}
