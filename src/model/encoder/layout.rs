//! How the tokens of a batch lie in its tensors.

use tch::{Device, Tensor};

use crate::{Error, Result};

/// The shape that attention has to know about; all else in the network looks at one token at a time.
#[derive(Debug)]
pub enum Layout {
    /// [rows, tokens, width], short rows filled up; the mask [rows, 1, 1, tokens] is true at a row's own tokens, and none
    /// stands for rows of one length.
    Padded(Option<Tensor>),
    /// [all tokens, width], row after row without padding.
    Unpadded(Vec<Group>),
}

/// Neighbouring rows of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Where its tokens begin among all tokens.
    pub start: i64,
    /// Rows.
    pub rows: i64,
    /// Tokens of each row.
    pub tokens: i64,
}

impl Group {
    /// The group's part of [all tokens, width] as [rows, tokens, width].
    pub fn of(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.f_narrow(0, self.start, self.rows * self.tokens)?.f_view([self.rows, self.tokens, -1])?)
    }
}

/// Rows of tokens one after another, for [`super::BertModel::forward_unpadded`].
#[derive(Debug)]
pub struct Unpadded {
    /// [all tokens] of ids.
    pub ids: Tensor,
    /// [all tokens]: a token's place in its row, from 0.
    pub positions: Tensor,
    /// The rows, in order.
    pub groups: Vec<Group>,
}

impl Unpadded {
    /// Joins rows in their order; the fewer changes of length there are between neighbours, the faster. Every row must have
    /// a token.
    pub fn new(rows: &[&[u32]], device: Device) -> Result<Self> {
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        let mut groups: Vec<Group> = Vec::new();
        for row in rows {
            let (start, tokens) = (ids.len() as i64, row.len() as i64);
            if tokens == 0 {
                return Err(Error::bug("a batch has a text without tokens"));
            }
            ids.extend(row.iter().map(|&id| i64::from(id)));
            positions.extend(0..tokens);
            match groups.last_mut() {
                Some(group) if group.tokens == tokens => group.rows += 1,
                _ => groups.push(Group { start, rows: 1, tokens }),
            }
        }
        let tensor = |values: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(values)?.f_to_device(device)?) };
        Ok(Unpadded { ids: tensor(&ids)?, positions: tensor(&positions)?, groups })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_length_form_a_group() {
        let joined = Unpadded::new(&[&[1, 2, 3], &[4, 5, 6], &[7], &[8, 9, 10]], Device::Cpu).unwrap();
        let group = |start, rows, tokens| Group { start, rows, tokens };
        assert_eq!(joined.groups, [group(0, 2, 3), group(6, 1, 1), group(7, 1, 3)]);
        assert_eq!(Vec::<i64>::try_from(&joined.positions).unwrap(), [0, 1, 2, 0, 1, 2, 0, 0, 1, 2]);
        assert!(Unpadded::new(&[&[1], &[]], Device::Cpu).is_err());
    }
}
