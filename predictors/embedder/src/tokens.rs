//! Turns texts into the numbers of their pieces, as the original's tokenizer does.
//!
//! What is hard about Unicode, cleaning a text and cutting it into words, is the `tokenizers` crate's.
//! Its own vocabulary is a map of 30,522 strings that every new instance would have to fill, which
//! takes 19 ms; here it is a pair of sorted tables that the build script wrote.

use dunlin_sdk::Error;
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{
    Normalizer as _, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _,
};

include!(concat!(env!("OUT_DIR"), "/vocabulary.rs"));

/// Of one text, its first and its last special one included. What is longer is cut, as
/// sentence-transformers does with this model.
pub(crate) const TOKENS_MAX: usize = 256;

/// A longer word is unknown.
const WORD_CHARS_MAX: usize = 100;

/// Rows are padded to a multiple of it, so that texts of about the same length make one shape: an
/// engine that plans for each shape has few, and calls that wait can share a run.
const COLUMNS_STEP: usize = 8;

/// The pieces of words with their numbers, each table sorted by the piece.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    starts: &'static [(&'static str, u32)],
    continuations: &'static [(&'static str, u32)],
    special: Special,
}

/// The numbers of the pieces that stand for something else than text. Written in a text in just this
/// form they mean the same there.
#[derive(Debug)]
struct Special {
    padding: u32,
    unknown: u32,
    first: u32,
    last: u32,
    mask: u32,
}

/// Texts as the model takes them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Row by row, with padding.
    pub(crate) ids: Vec<i64>,
    /// 1 for a token, 0 for padding.
    pub(crate) mask: Vec<i64>,
    /// Without padding.
    pub(crate) tokens: usize,
}

impl Vocabulary {
    /// The model's own, which is part of the predictor.
    pub(crate) fn of_model() -> Result<Self, Error> {
        if STARTS.is_empty() {
            return Err(Error::internal(
                "the predictor was built without its vocabulary; run export.py, which writes \
                 models/vocabulary.txt, and package it again",
            ));
        }
        Self::new(STARTS, CONTINUATIONS)
    }

    fn new(
        starts: &'static [(&'static str, u32)],
        continuations: &'static [(&'static str, u32)],
    ) -> Result<Self, Error> {
        let id = |piece| {
            find(starts, piece)
                .ok_or_else(|| Error::internal(format_args!("the vocabulary has no {piece}")))
        };
        let special = Special {
            padding: id("[PAD]")?,
            unknown: id("[UNK]")?,
            first: id("[CLS]")?,
            last: id("[SEP]")?,
            mask: id("[MASK]")?,
        };
        Ok(Self {
            starts,
            continuations,
            special,
        })
    }

    /// One row for each text.
    pub(crate) fn batch(&self, texts: &[String]) -> Result<Batch, Error> {
        let rows = texts
            .iter()
            .map(|text| self.row(text))
            .collect::<Result<Vec<_>, _>>()?;
        let tokens = rows.iter().map(Vec::len);
        let columns = tokens.clone().max().unwrap_or_default();
        let columns = columns.next_multiple_of(COLUMNS_STEP);
        let tokens = tokens.sum();
        let mut ids = vec![i64::from(self.special.padding); rows.len() * columns];
        let mut mask = vec![0; ids.len()];
        for (at, row) in rows.iter().enumerate() {
            let from = at * columns;
            ids[from..from + row.len()].copy_from_slice(row);
            mask[from..from + row.len()].fill(1);
        }
        Ok(Batch {
            rows: rows.len(),
            columns,
            ids,
            mask,
            tokens,
        })
    }

    /// The tokens of one text, with the first and the last that every text has.
    fn row(&self, text: &str) -> Result<Vec<i64>, Error> {
        let mut ids = vec![self.special.first];
        let mut rest = text;
        while let Some((before, special, after)) = self.split_at_special(rest) {
            self.plain(before, &mut ids)?;
            ids.push(special);
            rest = after;
            if ids.len() >= TOKENS_MAX {
                break;
            }
        }
        self.plain(rest, &mut ids)?;
        ids.truncate(TOKENS_MAX - 1);
        ids.push(self.special.last);
        Ok(ids.into_iter().map(i64::from).collect())
    }

    /// What comes before the first special piece that is written in the text, its number, and what
    /// comes after.
    fn split_at_special<'t>(&self, text: &'t str) -> Option<(&'t str, u32, &'t str)> {
        let special = [
            ("[PAD]", self.special.padding),
            ("[UNK]", self.special.unknown),
            ("[CLS]", self.special.first),
            ("[SEP]", self.special.last),
            ("[MASK]", self.special.mask),
        ];
        text.match_indices('[').find_map(|(at, _)| {
            let (before, from) = text.split_at(at);
            special
                .iter()
                .find_map(|(piece, id)| Some((before, *id, from.strip_prefix(piece)?)))
        })
    }

    /// Adds the tokens of a text without special pieces, and stops once there are enough.
    fn plain(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), Error> {
        // The normaliser takes each of these for a space and the words beside it one by one: a long
        // text is not read further than needed.
        for part in text.split([' ', '\t', '\n', '\r']) {
            if ids.len() >= TOKENS_MAX {
                return Ok(());
            }
            let mut words = PreTokenizedString::from(part);
            words
                .normalize(|part| BertNormalizer::default().normalize(part))
                .and_then(|()| BertPreTokenizer.pre_tokenize(&mut words))
                .map_err(Error::internal)?;
            for (word, ..) in words.get_splits(OffsetReferential::Normalized, OffsetType::None) {
                self.word(word, ids);
                if ids.len() >= TOKENS_MAX {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// WordPiece: the longest piece that the word begins with, and so on with what is left. A word
    /// that cannot be made of pieces is unknown as a whole.
    fn word(&self, word: &str, ids: &mut Vec<u32>) {
        if word.chars().nth(WORD_CHARS_MAX).is_some() {
            return ids.push(self.special.unknown);
        }
        let (before, mut table, mut rest) = (ids.len(), self.starts, word);
        while !rest.is_empty() {
            let ends = rest.char_indices().map(|(at, char)| at + char.len_utf8());
            let longest = ends
                .rev()
                .find_map(|end| Some((find(table, &rest[..end])?, end)));
            let Some((id, end)) = longest else {
                ids.truncate(before);
                return ids.push(self.special.unknown);
            };
            ids.push(id);
            rest = &rest[end..];
            table = self.continuations;
        }
    }
}

fn find(table: &[(&str, u32)], piece: &str) -> Option<u32> {
    let at = table
        .binary_search_by_key(&piece, |(known, _)| *known)
        .ok()?;
    Some(table[at].1)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    static FEW_STARTS: &[(&str, u32)] = &[
        ("!", 10),
        ("[CLS]", 2),
        ("[MASK]", 4),
        ("[PAD]", 0),
        ("[SEP]", 3),
        ("[UNK]", 1),
        ("cafe", 5),
        ("un", 6),
        ("unknow", 7),
        ("長", 11),
    ];
    static FEW_CONTINUATIONS: &[(&str, u32)] = &[("able", 8), ("know", 9)];

    /// A vocabulary of a few pieces.
    pub(crate) fn few() -> Vocabulary {
        Vocabulary::new(FEW_STARTS, FEW_CONTINUATIONS).unwrap()
    }

    fn check(text: &str, between: &[i64]) {
        let expected: Vec<i64> = [&[2], between, &[3]].concat();
        assert_eq!(few().row(text).unwrap(), expected, "{text:?}");
    }

    #[test]
    fn words_become_their_longest_pieces() {
        check("", &[]);
        check(" \t\r\n\u{2003}", &[]);
        check("Café! cafe\u{301}", &[5, 10, 5]);
        check("unknow unknowable unable", &[7, 7, 8, 6, 8]);
        check("unknowknow able", &[7, 9, 1]);
        // A start that no continuation follows makes the whole word unknown.
        check("unx cafe", &[1, 5]);
        check("長長 長", &[11, 11, 11]);
        // Removed, and so they do not part a word.
        check("un\u{0}ab\u{200b}le un\u{b}able", &[6, 8, 6, 8]);
        check("🦀", &[1]);
    }

    #[test]
    fn special_pieces_are_taken_as_they_are_written() {
        check("cafe[SEP]un[MASK]", &[5, 3, 6, 4]);
        check("[cafe [CLS", &[1, 5, 1, 1]);
        check("[sep]", &[1, 1, 1]);
    }

    #[test]
    fn long_words_are_unknown_and_long_texts_are_cut() {
        let pieces = |count: usize| format!("un{}", "able".repeat(count));
        assert_eq!(few().row(&pieces(24)).unwrap().len(), 2 + 25);
        assert_eq!(few().row(&pieces(25)).unwrap(), [2, 1, 3]);
        for text in [
            "cafe ".repeat(1000),
            "長".repeat(1000),
            "[SEP]".repeat(1000),
        ] {
            let row = few().row(&text).unwrap();
            assert_eq!((row.len(), row[TOKENS_MAX - 1]), (TOKENS_MAX, 3));
        }
        let exactly = few().row(&"cafe ".repeat(254)).unwrap();
        assert_eq!((exactly.len(), exactly[254]), (TOKENS_MAX, 5));
    }

    #[derive(serde::Deserialize)]
    struct Reference {
        text: String,
        tokens: Vec<i64>,
    }

    #[test]
    fn the_originals_tokenizer_gives_the_same() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/models/reference.json");
        let Ok(file) = std::fs::read(path) else {
            let required = std::env::var_os("DUNLIN_REQUIRE_LIGHTNING");
            assert!(required.is_none(), "{path} is not there");
            eprintln!("skipped: {path} is not there; run cargo xtask test --with lightning");
            return;
        };
        let reference: Vec<Reference> = serde_json::from_slice(&file).unwrap();
        assert!(reference.len() >= 30);
        let vocabulary = Vocabulary::of_model().unwrap();
        for Reference { text, tokens } in reference {
            assert_eq!(vocabulary.row(&text).unwrap(), tokens, "{text:?}");
        }
    }

    #[test]
    fn rows_are_padded_to_one_length() {
        let texts = ["cafe", "", &"un ".repeat(7)].map(String::from);
        let batch = few().batch(&texts).unwrap();
        assert_eq!(
            (batch.rows, batch.columns, batch.tokens),
            (3, 16, 3 + 2 + 9)
        );
        assert_eq!(batch.ids[..4], [2, 5, 3, 0]);
        assert_eq!(batch.mask[..4], [1, 1, 1, 0]);
        assert_eq!(batch.ids[16..19], [2, 3, 0]);
        assert_eq!(batch.mask[32..].iter().sum::<i64>(), 9);
        assert_eq!(batch.mask.len(), batch.ids.len());
    }
}
