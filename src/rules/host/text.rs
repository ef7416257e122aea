//! `truncate` and `mask`.

use rhai::{Engine, INT, ImmutableString};

use super::{Fallible, bounded, too_long};
use crate::limits;

/// Characters that `mask` leaves.
const SHOWN: usize = 4;

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn("truncate", truncate);
    // Rhai's own have no bound: a text of a megabyte, each letter replaced by a megabyte.
    engine.register_fn("replace", |text: &mut ImmutableString, find: &str, with: &str| replace(text, find, with));
    engine.register_fn("replace", |text: &mut ImmutableString, find: &str, with: char| {
        replace(text, find, with.encode_utf8(&mut [0; 4]))
    });
    engine.register_fn("replace", |text: &mut ImmutableString, find: char, with: &str| {
        replace(text, find.encode_utf8(&mut [0; 4]), with)
    });
    engine.register_fn("replace", |text: &mut ImmutableString, find: char, with: char| {
        replace(text, find.encode_utf8(&mut [0; 4]), with.encode_utf8(&mut [0; 4]))
    });
    engine.register_fn("mask", |text: &str| bounded(mask(text)));
}

fn replace(text: &mut ImmutableString, find: &str, with: &str) -> Fallible<()> {
    let found = text.matches(find).count();
    let size = text.len().saturating_sub(found * find.len()).saturating_add(found.saturating_mul(with.len()));
    if size > limits::SCRIPT_STRING_BYTES {
        return Err(too_long());
    }
    if found > 0 {
        *text = text.replace(find, with).into();
    }
    Ok(())
}

fn truncate(text: ImmutableString, chars: INT) -> Fallible<ImmutableString> {
    let Ok(most) = usize::try_from(chars) else {
        return Err(format!("truncate: {chars} is no number of characters").into());
    };
    if most == 0 {
        return Ok(ImmutableString::new());
    }
    let mut places = text.char_indices().map(|(at, _)| at);
    // The place where the last kept character gives way to the ellipsis, if anything comes after it.
    let cut = places.nth(most - 1);
    match (cut, places.next()) {
        (Some(cut), Some(_)) => Ok(format!("{}…", &text[..cut]).into()),
        _ => Ok(text),
    }
}

/// A text that is no longer than what would be shown is hidden whole.
fn mask(text: &str) -> String {
    let chars = text.chars().count();
    let hidden = if chars > SHOWN { chars - SHOWN } else { chars };
    text.chars().enumerate().map(|(i, c)| if i < hidden { '*' } else { c }).collect()
}
