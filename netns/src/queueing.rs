//! What waits in front of an interface.

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use crate::links::Step;
use crate::{LinkError, Links};

impl Links {
    /// Has frames go to an interface at once, instead of through queues of the kernel's in front of it (tc's `noqueue`).
    ///
    /// An interface that has no queues of somebody's choice gets those of the system's default when it is first switched
    /// on, for each transmit queue that it might have: of a multi-queue TAP 256, in all some 6 MiB.
    ///
    /// # Errors
    /// [`LinkError`], also where somebody has chosen queues for it, and where the kernel has none at all.
    pub fn set_no_queue(&mut self, name: &str) -> Result<(), LinkError> {
        let step = Step { operation: "take the queues in front of", interface: name };
        let mut message = TcMessage::with_index(self.index(step)? as i32);
        message.header.parent = TcHandle::ROOT;
        message.attributes.push(TcAttribute::Kind("noqueue".to_owned()));
        self.command(step, RouteNetlinkMessage::NewQueueDiscipline(message), NLM_F_CREATE | NLM_F_EXCL)
    }
}
