//! The name of an uploaded file: what a client calls it, made safe to stand in a directory of ours (rule U3).
//!
//! What is wrong with a name is refused and not repaired: two names that become one by repair would be two uploads that
//! overwrite each other, and the client learns nothing. The one repair is to drop the path that some clients send along.
//! What comes out is one component of a path on Linux and nothing else. A name that does not begin with a dot is
//! neither `.` nor `..` nor one of those that the server keeps for itself.

use std::fmt;

/// The most bytes that a file's name has on Linux (NAME_MAX).
pub const NAME_MAX: usize = 255;

/// The file's name in `raw`, which may be a path of the client's system: what follows the last `/` or `\`.
///
/// Dots and spaces at the end are kept, since Linux knows such names; so is any script and any emoji.
///
/// # Errors
/// See [`NameRefusal`].
pub fn clean(raw: &str) -> Result<String, NameRefusal> {
    let name = raw.rsplit(['/', '\\']).next().unwrap_or_default();
    if name.is_empty() {
        Err(NameRefusal::Empty)
    } else if name.chars().any(char::is_control) {
        Err(NameRefusal::Control)
    } else if name.chars().any(disguises) {
        Err(NameRefusal::Disguise)
    } else if name.starts_with('.') {
        Err(NameRefusal::Hidden)
    } else if name.len() > NAME_MAX {
        Err(NameRefusal::TooLong)
    } else {
        Ok(name.to_string())
    }
}

/// The `n`th name for a file whose name, a clean one, is taken: `film.mp4` becomes `film-2.mp4`.
///
/// What stands before the extension is cut, between characters, until the whole fits into [`NAME_MAX`]. An extension
/// that leaves no room is not taken for one.
pub fn numbered(name: &str, n: u32) -> String {
    let (stem, extension) = split_extension(name);
    let number = format!("-{n}");
    format!("{}{number}{extension}", cut(stem, NAME_MAX - number.len() - extension.len()))
}

/// A name without its extension, and the extension with its dot.
fn split_extension(name: &str) -> (&str, &str) {
    match name.rfind('.') {
        Some(dot) if name.len() - dot <= LONGEST_KEPT_EXTENSION => name.split_at(dot),
        _ => (name, ""),
    }
}

/// The beginning of a text, of so many bytes at most and whole characters.
fn cut(text: &str, room: usize) -> &str {
    let room = room.min(text.len());
    let at = (0..=room).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    &text[..at]
}

/// The name of what has come of a file that broke off: `film.mp4` becomes `film.incomplete.mp4`, so that it still tells its type.
///
/// It is cut as by [`numbered`].
pub fn incomplete(name: &str) -> String {
    const MARK: &str = ".incomplete";
    let (stem, extension) = split_extension(name);
    format!("{}{MARK}{extension}", cut(stem, NAME_MAX - MARK.len() - extension.len()))
}

/// A name that tells nothing and that nobody guesses: 26 letters and digits from 128 `random` bits, and the extension.
///
/// It is Crockford's base 32 in small letters: short, alike on file systems that ignore case, without the letters that
/// are taken for digits. An extension is kept, in small letters, if it is 1 to 10 ASCII letters and digits.
pub fn generated(random: [u8; 16], extension: Option<&str>) -> String {
    const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let bits = u128::from_be_bytes(random);
    // 26 digits of 5 bits hold 130; the first has the 3 that are left over.
    let digits = (0..26).rev().map(|place| char::from(ALPHABET[(bits >> (5 * place)) as usize % 32]));
    let mut name: String = digits.collect();
    let is_kept = |extension: &&str| {
        (1..=10).contains(&extension.len()) && extension.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    if let Some(extension) = extension.filter(is_kept) {
        name.push('.');
        name.push_str(&extension.to_ascii_lowercase());
    }
    name
}

/// Why a name is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRefusal {
    /// Nothing follows the last separator, or there is nothing at all.
    Empty,
    /// It begins with a dot: `.`, `..`, or a hidden file.
    Hidden,
    /// NUL or another control character, of ASCII or of Latin 1.
    Control,
    /// A character that is not seen and changes how the rest of the name is.
    Disguise,
    /// Over [`NAME_MAX`] bytes.
    TooLong,
}

impl fmt::Display for NameRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameRefusal::Empty => "the file has no name",
            NameRefusal::Hidden => "the file's name begins with a dot",
            NameRefusal::Control => "the file's name has a control character in it",
            NameRefusal::Disguise => "the file's name has a character in it that is not seen and disguises the rest",
            NameRefusal::TooLong => "the file's name is longer than 255 bytes",
        })
    }
}

impl std::error::Error for NameRefusal {}

/// The longest extension, with its dot, that [`numbered`] keeps; any that is known is far shorter.
const LONGEST_KEPT_EXTENSION: usize = 32;

/// Whether `c` is not seen itself and makes the name look like another one.
///
/// The controls of direction turn `holiday-<U+202E>4pm.exe` into `holiday-exe.mp4` on the screen, and what has no width
/// makes two names look alike (Unicode Technical Report 36, §2.5 and §2.8). The joiners U+200C and U+200D and the
/// variation selectors stay legal: Persian and the emoji of families and flags are written with them. So do the
/// tags that flags are made of.
fn disguises(c: char) -> bool {
    matches!(
        c,
        '\u{61c}' // Arabic letter mark
            | '\u{ad}' | '\u{34f}' | '\u{180e}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' // of no width
            | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{206f}' // of direction
            | '\u{2028}' | '\u{2029}' // line and paragraph separators
            | '\u{fff9}'..='\u{fffb}' // annotations
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(raw: &str, expected: &str) {
        assert_eq!(clean(raw).as_deref(), Ok(expected), "{raw:?}");
    }

    #[track_caller]
    fn refuse(raw: &str, expected: NameRefusal) {
        assert_eq!(clean(raw), Err(expected), "{raw:?}");
    }

    #[test]
    fn u3_only_what_follows_the_last_separator() {
        for raw in [
            "film.mp4",
            "/film.mp4",
            "a/film.mp4",
            "../../film.mp4",
            "C:\\Users\\me\\film.mp4",
            "C:\\a/film.mp4",
            "a/b\\film.mp4",
            "\\\\host\\share\\film.mp4",
            ".hidden/film.mp4",
            "a\0b/film.mp4",
        ] {
            check(raw, "film.mp4");
        }
    }

    #[test]
    fn what_broke_off_keeps_its_extension() {
        for (name, expected) in [
            ("film.mp4", "film.incomplete.mp4"),
            ("a.b.ts", "a.b.incomplete.ts"),
            ("film", "film.incomplete"),
            ("film.", "film.incomplete."),
        ] {
            assert_eq!(incomplete(name), expected);
        }
        let long = incomplete(&format!("{}.mp4", "\u{e9}".repeat(125)));
        assert!(long.len() <= NAME_MAX && long.ends_with("\u{e9}.incomplete.mp4"), "{long}");
    }

    #[test]
    fn u3_names_that_are_no_names() {
        for raw in ["", "/", "\\", "a/", "film.mp4/", "..\\"] {
            refuse(raw, NameRefusal::Empty);
        }
        for raw in [".", "..", "...", ".htaccess", "a/..", "../.", ".uploads", "a\\.git"] {
            refuse(raw, NameRefusal::Hidden);
        }
    }

    #[test]
    fn u3_controls_are_refused() {
        for raw in
            ["\0", "a\0.mp4", "a.mp4\0", "a\nb", "a\r\nX: y", "\t", "\u{7f}", "a\u{85}", "\u{9b}31m", "\u{1b}[2J"]
        {
            refuse(raw, NameRefusal::Control);
        }
    }

    #[test]
    fn u3_what_disguises_an_extension_is_refused() {
        for raw in [
            "holiday-\u{202e}4pm.exe",
            "a\u{200b}.mp4",
            "\u{feff}a.mp4",
            "a\u{2066}b\u{2069}",
            "a\u{200f}.mp4",
            "a\u{61c}",
            "so\u{ad}ft",
            "a\u{2028}b",
            "a\u{2060}b",
        ] {
            refuse(raw, NameRefusal::Disguise);
        }
    }

    #[test]
    fn u3_what_people_call_their_files() {
        for raw in [
            "a",
            "a b; c'd\"e&f.mp4",
            "\u{1f3ac}.mp4",
            "\u{1f468}\u{200d}\u{1f469}\u{200d}\u{1f467}.jpg",
            "\u{2764}\u{fe0f}.png",
            "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}.mp4",
            "\u{4f60}\u{597d}.txt",
            "e\u{301}te\u{301}.mov",
            "trailing.",
            "trailing ",
            " leading",
            "a..b",
            "-rf",
            "~",
            "CON",
            "%2e%2e%2f",
            "a:b|c?d*e<f>",
        ] {
            check(raw, raw);
        }
    }

    #[test]
    fn u3_too_long_is_refused_and_not_cut() {
        check(&"a".repeat(255), &"a".repeat(255));
        refuse(&"a".repeat(256), NameRefusal::TooLong);
        refuse(&"a".repeat(5000), NameRefusal::TooLong);
        check(&"\u{1f3ac}".repeat(63), &"\u{1f3ac}".repeat(63));
        refuse(&"\u{1f3ac}".repeat(64), NameRefusal::TooLong);
        check(&format!("{}/a", "b".repeat(5000)), "a");
    }

    #[test]
    fn u3_numbered_names_keep_their_extension() {
        for (name, n, expected) in [
            ("film.mp4", 2, "film-2.mp4"),
            ("film", 2, "film-2"),
            ("film.", 3, "film-3."),
            ("a.tar.gz", 10, "a.tar-10.gz"),
            ("film-2.mp4", 2, "film-2-2.mp4"),
            ("a", u32::MAX, "a-4294967295"),
        ] {
            assert_eq!(numbered(name, n), expected);
        }
    }

    #[test]
    fn u3_numbered_names_fit() {
        let long = format!("{}.mp4", "a".repeat(251));
        assert_eq!(numbered(&long, 12), format!("{}-12.mp4", "a".repeat(248)));
        let emoji = format!("{}.mp4", "\u{1f3ac}".repeat(62));
        assert_eq!(numbered(&emoji, 12345), format!("{}-12345.mp4", "\u{1f3ac}".repeat(61)));
        let all_extension = format!("a.{}", "b".repeat(253));
        assert_eq!(numbered(&all_extension, 2), format!("a.{}-2", "b".repeat(251)));
    }

    #[test]
    fn u3_generated_names() {
        assert_eq!(generated([0; 16], None), "0".repeat(26));
        assert_eq!(generated([255; 16], Some("MP4")), format!("7{}.mp4", "z".repeat(25)));
        let mut random = [0; 16];
        random[15] = 33;
        assert_eq!(generated(random, Some("7z")), format!("{}11.7z", "0".repeat(24)));
        for extension in ["", "a.b", "../x", "mp4 ", "\u{e9}", "abcdefghijk", "a\0"] {
            assert_eq!(generated([0; 16], Some(extension)), "0".repeat(26), "{extension:?}");
        }
        assert_eq!(generated([0; 16], Some("abcdefghij")).len(), 37);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn u3_what_is_clean_is_one_component(raw in "\\PC{0,300}|[./\\\\a\\x00-\\x7f]{0,12}|.{0,20}") {
            if let Ok(name) = clean(&raw) {
                prop_assert!(!name.is_empty() && name.len() <= NAME_MAX && !name.starts_with('.'));
                prop_assert!(!name.contains(['/', '\\', '\0']));
                prop_assert!(raw.ends_with(&name));
                prop_assert_eq!(clean(&name), Ok(name));
            }
        }

        #[test]
        fn u3_a_numbered_name_is_clean_and_another(name in "[a-c.\u{e9}\u{1f3ac}]{1,300}", n in any::<u32>()) {
            if let Ok(name) = clean(&name) {
                let numbered = numbered(&name, n);
                prop_assert_ne!(&numbered, &name);
                prop_assert_eq!(clean(&numbered), Ok(numbered));
            }
        }

        #[test]
        fn u3_generated_names_differ_and_are_clean(a in any::<[u8; 16]>(), b in any::<[u8; 16]>()) {
            prop_assert_eq!(generated(a, None) == generated(b, None), a == b);
            prop_assert_eq!(clean(&generated(a, Some("mp4"))), Ok(generated(a, Some("mp4"))));
        }
    }
}
