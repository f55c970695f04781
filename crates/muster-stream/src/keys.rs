//! Keyboards: from the W3C's names to the numbers that an X server takes.

/// Numbers of X servers are those of the kernel and eight.
const OFFSET: u8 = 8;

/// The place of a key on the keyboard, as the X server numbers it.
pub(crate) fn keycode(code: &str) -> Option<u8> {
    PLACES.iter().find(|(name, _)| *name == code).map(|(_, number)| number + OFFSET)
}

/// The X name (keysym) of what a key writes: a character, or one of the named keys that move and delete.
pub(crate) fn keysym(key: &str) -> Option<u32> {
    let mut chars = key.chars();
    if let (Some(only), None) = (chars.next(), chars.next()) {
        let point = u32::from(only);
        return Some(match point {
            0x20..=0x7e | 0xa0..=0xff => point,
            0..=0x1f | 0x7f..=0x9f => return None,
            // How X writes the rest of Unicode.
            _ => 0x0100_0000 | point,
        });
    }
    None
}

/// Numbers of the kernel (`input-event-codes.h`) by the names of the W3C's `KeyboardEvent.code`.
const PLACES: [(&str, u8); 114] = [
    ("Escape", 1),
    ("Digit1", 2),
    ("Digit2", 3),
    ("Digit3", 4),
    ("Digit4", 5),
    ("Digit5", 6),
    ("Digit6", 7),
    ("Digit7", 8),
    ("Digit8", 9),
    ("Digit9", 10),
    ("Digit0", 11),
    ("Minus", 12),
    ("Equal", 13),
    ("Backspace", 14),
    ("Tab", 15),
    ("KeyQ", 16),
    ("KeyW", 17),
    ("KeyE", 18),
    ("KeyR", 19),
    ("KeyT", 20),
    ("KeyY", 21),
    ("KeyU", 22),
    ("KeyI", 23),
    ("KeyO", 24),
    ("KeyP", 25),
    ("BracketLeft", 26),
    ("BracketRight", 27),
    ("Enter", 28),
    ("ControlLeft", 29),
    ("KeyA", 30),
    ("KeyS", 31),
    ("KeyD", 32),
    ("KeyF", 33),
    ("KeyG", 34),
    ("KeyH", 35),
    ("KeyJ", 36),
    ("KeyK", 37),
    ("KeyL", 38),
    ("Semicolon", 39),
    ("Quote", 40),
    ("Backquote", 41),
    ("ShiftLeft", 42),
    ("Backslash", 43),
    ("KeyZ", 44),
    ("KeyX", 45),
    ("KeyC", 46),
    ("KeyV", 47),
    ("KeyB", 48),
    ("KeyN", 49),
    ("KeyM", 50),
    ("Comma", 51),
    ("Period", 52),
    ("Slash", 53),
    ("ShiftRight", 54),
    ("NumpadMultiply", 55),
    ("AltLeft", 56),
    ("Space", 57),
    ("CapsLock", 58),
    ("F1", 59),
    ("F2", 60),
    ("F3", 61),
    ("F4", 62),
    ("F5", 63),
    ("F6", 64),
    ("F7", 65),
    ("F8", 66),
    ("F9", 67),
    ("F10", 68),
    ("NumLock", 69),
    ("ScrollLock", 70),
    ("Numpad7", 71),
    ("Numpad8", 72),
    ("Numpad9", 73),
    ("NumpadSubtract", 74),
    ("Numpad4", 75),
    ("Numpad5", 76),
    ("Numpad6", 77),
    ("NumpadAdd", 78),
    ("Numpad1", 79),
    ("Numpad2", 80),
    ("Numpad3", 81),
    ("Numpad0", 82),
    ("NumpadDecimal", 83),
    ("IntlBackslash", 86),
    ("F11", 87),
    ("F12", 88),
    ("IntlRo", 89),
    ("Convert", 92),
    ("KanaMode", 93),
    ("NonConvert", 94),
    ("NumpadEnter", 96),
    ("ControlRight", 97),
    ("NumpadDivide", 98),
    ("PrintScreen", 99),
    ("AltRight", 100),
    ("Home", 102),
    ("ArrowUp", 103),
    ("PageUp", 104),
    ("ArrowLeft", 105),
    ("ArrowRight", 106),
    ("End", 107),
    ("ArrowDown", 108),
    ("PageDown", 109),
    ("Insert", 110),
    ("Delete", 111),
    ("NumpadEqual", 117),
    ("Pause", 119),
    ("NumpadComma", 121),
    ("Lang1", 122),
    ("Lang2", 123),
    ("IntlYen", 124),
    ("MetaLeft", 125),
    ("MetaRight", 126),
    ("ContextMenu", 127),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn places_are_unique() {
        let names: BTreeSet<_> = PLACES.iter().map(|(name, _)| name).collect();
        let numbers: BTreeSet<_> = PLACES.iter().map(|(_, number)| number).collect();
        assert_eq!((names.len(), numbers.len()), (PLACES.len(), PLACES.len()));
        assert_eq!(keycode("KeyA"), Some(38));
        assert_eq!(keycode("ArrowUp"), Some(111));
        assert_eq!(keycode("Nonsense"), None);
    }

    #[test]
    fn characters_have_names() {
        assert_eq!(keysym("a"), Some(0x61));
        assert_eq!(keysym("ä"), Some(0xe4));
        assert_eq!(keysym("я"), Some(0x0100_044f));
        assert_eq!(keysym("Shift"), None);
        assert_eq!(keysym("\u{7}"), None);
    }
}
