//! What the cells of the table do: a part of `impl Master` for each subject.

mod answer;
mod built;
mod check;
mod drain;
mod failure;
mod restart;
mod stop;
