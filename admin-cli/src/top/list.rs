//! The list of supervisors, and which one is selected.

use super::input::{Instance, Key, moved};

/// The list of supervisors.
#[derive(Debug, Default)]
pub(super) struct List {
    /// None: not searched for yet.
    pub(super) instances: Option<Result<Vec<Instance>, String>>,
    pub(super) selected: usize,
}

impl List {
    pub(super) fn update(&mut self, instances: Result<Vec<Instance>, String>) {
        // The same instance stays selected, wherever it is now.
        let name = self.name().map(str::to_owned);
        let position = |name: &str| instances.as_ref().ok()?.iter().position(|instance| instance.name == name);
        let length = instances.as_ref().map_or(0, Vec::len);
        let kept = name.as_deref().and_then(position);
        self.selected = kept.unwrap_or_else(|| self.selected.min(length.saturating_sub(1)));
        self.instances = Some(instances);
    }

    pub(super) fn all(&self) -> &[Instance] {
        match &self.instances {
            Some(Ok(instances)) => instances,
            Some(Err(_)) | None => &[],
        }
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.all().get(self.selected).map(|instance| instance.name.as_str())
    }

    pub(super) fn key(&mut self, key: Key) {
        self.selected = moved(key, self.selected, self.all().len());
    }
}
