//! `top`

use mastercontrol::Exit;

use crate::args::Target;
use crate::failure::Failure;
use crate::target::one_or_several;
use crate::top;

pub(crate) fn top(target: &Target, json: bool) -> Result<Exit, Failure> {
    if json {
        return Err(Failure::new(
            Exit::Usage,
            "top is for people; `status --json` and `events --json` are for programs",
        ));
    }
    top::run(one_or_several(target)?)
}
