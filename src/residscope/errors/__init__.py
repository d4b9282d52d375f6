"""Every error Residscope raises on purpose, as one tree.

    ResidscopeError
    ├── PromptError          EmptyPrompt, BadPrompt, PaddedPrompt, PromptTooLong, PageTooLarge, UnknownToken, NoTokenizer,
    │                        NoBOS, NoChatTemplate, BadConversation
    ├── SiteError            UnknownSite, UnknownLayer, UnknownHead, UnknownNeuron, UnknownPosition, AbsentSite,
    │                        NoVectors
    ├── DirectionError       WrongWidth, ZeroDirection, CappedLogits, NegativeActivations, NotFitted,
    │                        BadFit (Misplaced)
    ├── AttributionError     NotLinear, NotAdditive, NotComplete
    ├── EditError            BadEdit, ClashingEdits, CannotAlign
    ├── TooLarge
    ├── BadSampling
    ├── RecordingError       NotRecorded, WeightsChanged, WrongModel
    ├── ModelError           ModelNotFound, DamagedModel, HashMismatch, Offline, UnknownFamily, UnknownConfig,
    │                        CertificateFailed, RemoteCodeRefused, QuantisedModel, UnmergedAdapter, NotFinite,
    │                        NoWeights, NoTinyCopy, WrongAdapter, OtherModel
    ├── ResultError          BadResult, UnknownLabel
    ├── DeclarationError     BadArguments, UnknownMethod, NameAlreadyDeclared
    ├── ShelfFull, NotWritten
    ├── FileError            FileNotThere, DamagedFile, WrongEnding, NotPlain
    ├── GraphError           NoFeatures
    ├── CorpusError          EmptyCorpus, TooFewVectors, TextTooShort
    ├── NamingError          NoEndpoint, EndpointFailed
    ├── HarvestError         OtherHarvest, HarvestNotWritten, WorkerLost
    ├── TaskError            BadTable, TooFewWords, MissingLabel, TooFewPrompts, UnknownTask
    ├── ProbeError           OneClass, UnseenLabel, NotNumbers, SingularCovariance, Unreachable
    ├── TrainingError        BadTraining, TrainingDiverged, CheckpointNotWritten
    ├── BlindTestError       NoOrder, TooFewContexts, NotOneVector
    ├── WireError            MalformedJSON, MalformedTensors, NotFound, NotAllowed, ForeignHost, Busy
    ├── StoreError           NoUser, NotYours, NameTaken, BadText, EditedSince, CannotUndo, TooFast, DamagedStore,
    │                        StoreTooNew, StoreNotEmpty, StoreUnreachable
    ├── BadView
    ├── PortInUse, BadAddress, NoPage, OwnersAlone
    ├── MissingExtra
    ├── SweepError           BadSweep, NoGradient, UnalignedPrompts
    └── Cancelled            Interrupted, SweepCancelled, SweepInterrupted

Each says what failed, what was received, what is allowed and how to fix it; `str(error)` holds all four.

What is true but easily misread is a warning: ResidscopeWarning, of which GridEdge, NotCached, PoorFit, Unsealed.
"""

from residscope.errors.base import *  # noqa: F403
from residscope.errors.keeping import *  # noqa: F403
from residscope.errors.methods import *  # noqa: F403
from residscope.errors.models import *  # noqa: F403
from residscope.errors.running import *  # noqa: F403
from residscope.errors.training import *  # noqa: F403
