//! What runs in pods because the lab file says so.

use std::fs::{DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::error::io_error;
use crate::journal::directory;
use crate::spec::PodSpec;
use crate::{Lab, LabError, Progress};

impl Lab {
    /// Starts the command of every pod that has one. They are ended with the lab, as is whatever else runs in its
    /// namespaces.
    pub(crate) fn start_commands(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
        for (_, pod) in self.spec().pods() {
            if let Some(text) = &pod.cmd {
                let pid = self.start_command(pod, text)?;
                progress(Progress::CommandStarted { pod: &pod.name, pid });
            }
        }
        Ok(())
    }

    /// What a pod's command prints.
    #[must_use]
    pub fn pod_log_of(&self, pod: &str) -> PathBuf {
        directory(self.name()).join("pods").join(format!("{pod}.log"))
    }

    fn start_command(&self, pod: &PodSpec, text: &str) -> Result<u32, LabError> {
        let log = self.pod_log_of(&pod.name);
        let pods = log.parent().unwrap_or(&log);
        match DirBuilder::new().mode(0o755).create(pods) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(io_error("make", pods)(error)),
            _ => {}
        }
        let output = OpenOptions::new().append(true).create(true).open(&log).map_err(io_error("open", &log))?;
        let errors = output.try_clone().map_err(io_error("open", &log))?;
        let mut command = Command::new("/bin/sh");
        // A group of its own: Ctrl-C at the terminal is for whoever made the lab.
        command.arg("-c").arg(text).current_dir("/").process_group(0);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = self.netns(&pod.name)?.run(|| command.spawn())?.map_err(io_error("run", "/bin/sh"))?;
        Ok(child.id())
    }
}
