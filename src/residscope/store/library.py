"""The library of directions: save, find, open, rename, delete, undo, send and receive."""

from dataclasses import replace
from uuid import uuid4

import torch
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session
from torch import Tensor

from residscope import directions
from residscope import written as text
from residscope.engine.model import Model
from residscope.errors import CannotUndo, NameTaken, NotFound, WrongModel
from residscope.store import exchange, tables, tensors
from residscope.store import search as finding
from residscope.store.database import Database
from residscope.store.desk import live, named, now
from residscope.store.entries import Alike, Entry, ModelKey, Page, SavedFeature, SavedFeatures, Somebody, Whole, told
from residscope.store.exchange import Sent
from residscope.store.remarks import Remarks
from residscope.store.search import Search
from residscope.store.tables import Description, Direction, Vote

SAME = 1e-6  # of a cosine: what fp32 and a file leave of one direction
MOST_ALIKE, MOST_READS = 20, 4000


class Library(Remarks):
    """Directions with a name, an owner and what people say of them.

        library = rs.open_library()
        entry = library.save(direction, model=model, user="ada", name="plural nouns", description="fires on -s")
        library.search(Search(text="plural", sort="votes"))
        library.direction(entry.id, model=model)

    Every method is one transaction, and may be called from any thread.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._reads: dict[str, Tensor] = {}

    def save(
        self,
        direction: directions.Direction,
        *,
        model: Model | ModelKey,
        user: str | None,
        name: str | None = None,
        description: str | None = None,
        proven: bool = True,
    ) -> Entry:
        """Keep a direction that was found in a model; the same asked for twice is one.

        proven: the model is at hand, and not only named by a file: its name and weights are then what is kept of it.

        Raises:
            NameTaken: another direction of yours in that model has the name.
            BadText, NoUser, DirectionError, ZeroDirection.
        """
        exchange.check(direction)
        direction = replace(direction, name=text.name_of(direction.name if name is None else name))
        if description is not None:
            description = text.paragraphs(description, "the description", most=text.MOST_DESCRIPTION)
        key = model if isinstance(model, ModelKey) else ModelKey.of(model)
        try:
            return self._save(direction, key, user, description, proven=proven)
        except IntegrityError:  # somebody was first: now it can be seen
            return self._save(direction, key, user, description, proven=proven)

    def get(self, id: str, *, user: str | None = None) -> Whole:
        """Everything about a direction but its vectors; `user` sees their own votes. Raises NotFound."""
        with self.database.reading() as session:
            row = live(session, Direction, id)
            asker = named(session, user or "")
            descriptions, comments = self._said(session, id, asker)
            return Whole(finding.entry(session, id), row.provenance, descriptions, comments)

    def direction(self, id: str, *, model: Model | None = None) -> directions.Direction:
        """The direction itself, its vectors checked.

        Raises:
            NotFound, DamagedStore. WrongModel: it was found in another model than `model`.
        """
        sent = self._sent(id)
        if model is not None and not sent.model.same(ModelKey.of(model)):
            raise WrongModel(
                f"{sent.direction.name} was found in another model",
                received=f"{sent.model.name} ({sent.model.hash[:12]})",
                allowed=f"{model.name} ({model.fingerprint()[:12]})",
                fix=f"load {sent.model.name}",
            )
        return sent.direction

    def begin_with(self, beginning: str) -> list[str]:
        """A few ids that begin so, of directions that are not deleted."""
        query = select(Direction.id).where(Direction.id.startswith(beginning, autoescape=True))
        with self.database.reading() as session:
            return list(session.scalars(query.where(Direction.deleted_at.is_(None)).limit(5)))

    def hashes_of(self, model: Model | ModelKey) -> tuple[str, ...]:
        """The hashes under which directions of a model are saved here: its own, and those it has in other dtypes."""
        key = model if isinstance(model, ModelKey) else ModelKey.of(model)
        with self.database.reading() as session:
            return tuple(row.hash for row in session.scalars(select(tables.Model)) if exchange.known(row).same(key))

    def search(self, asked: Search | None = None) -> Page:
        with self.database.reading() as session:
            return finding.search(session, asked or Search())

    def alike(self, direction: directions.Direction, *, model: Model | ModelKey) -> Alike:
        """Those that are this direction: found in the model at the same place, their read vectors within 1e-6 of a cosine of 1.

        Raises:
            DamagedStore.
        """
        wanted = direction.read.detach().double().cpu()
        models = self.hashes_of(model)
        with self.database.reading() as session:
            found = [
                entry
                for entry in finding.at(session, models, str(direction.site), direction.head)
                if cosine(wanted, self._read(session, entry.tensors)) > 1 - SAME
            ]
            said = select(func.count()).where(Description.deleted_at.is_(None))
            count = session.scalar(said.where(Description.direction_id.in_([entry.id for entry in found]))) or 0
        return Alike(tuple(found[:MOST_ALIKE]), count)

    def features(self, hash: str) -> SavedFeatures:
        """What is saved of a dictionary's own directions, by its hash; one that was moved or mixed is none of them."""
        with self.database.reading() as session:
            return SavedFeatures(tuple(SavedFeature(*found) for found in finding.of_dictionary(session, hash)))

    def somebody(self, name: str) -> Somebody:
        """What a person has done here. Raises NotFound."""
        with self.database.reading() as session:
            user = named(session, name.strip())
            if user is None:
                raise NotFound("nobody of that name is known here", received=name)
            own = select(func.count()).where(Direction.owner_id == user.id, Direction.deleted_at.is_(None))
            mine = (Description.author_id == user.id, Description.deleted_at.is_(None))
            votes = select(func.coalesce(func.sum(Vote.value), 0)).join(
                Description, Description.id == Vote.description_id
            )
            return Somebody(
                user.name,
                told(user.created_at),
                session.scalar(own) or 0,
                session.scalar(select(func.count()).where(*mine)) or 0,
                int(session.scalar(votes.where(*mine, Vote.user_id != user.id)) or 0),
            )

    def _read(self, session: Session, sha256: str) -> Tensor:
        """A read vector that is kept under a hash; of the latest few thousand at once."""
        known = self._reads.get(sha256)
        if known is None:
            known = exchange.unpack(tensors.get(self.database, session, sha256))[0].double()
            self._reads[sha256] = known
            for old in [*self._reads][:-MOST_READS]:
                self._reads.pop(old, None)
        return known

    def rename(self, id: str, name: str, *, user: str | None, seen: int | None = None) -> Entry:
        """Rename one's own. `seen`: the version it was read at; a newer one is not written over.

        Raises:
            NameTaken, BadText, NotFound, NotYours, EditedSince.
        """
        name = text.name_of(name)
        try:
            with self.database.writing() as session:
                owner = self._user(session, user)
                row = self._own(session, Direction, id, owner, seen=seen)
                self._change(session, owner, "edit", row, {"name": name, "name_key": text.key(name)})
                session.flush()
                return finding.entry(session, id)
        except IntegrityError:
            raise _taken(name) from None

    def delete(self, id: str, *, user: str | None) -> int:
        """Delete one's own, for `undo`: the number that this answers undoes it. Raises NotFound, NotYours."""
        with self.database.writing() as session:
            owner = self._user(session, user)
            return self._change(
                session, owner, "delete", self._own(session, Direction, id, owner), {"deleted_at": now()}
            )

    def undo(self, *, user: str | None, event: int | None = None) -> tuple[str, str]:
        """Take back one's last change that is not taken back yet, or the one named; answers what it was of, and its id.

        Raises:
            CannotUndo, NotYours. NameTaken: a name that was given up has been taken since.
        """
        try:
            with self.database.writing() as session:
                undone = self._undo(session, self._user(session, user), event)
                return undone.kind, undone.subject
        except IntegrityError as error:
            if "undoes" in str(error.orig):
                raise CannotUndo("that is undone already", received=event) from None
            raise NameTaken("another direction of yours has taken the name", fix="rename that one first") from None

    def send(self, id: str) -> bytes:
        """A direction as the bytes of one file. Raises NotFound, DamagedStore."""
        return exchange.to_file(self._sent(id))

    def receive(self, data: bytes, *, user: str | None, name: str | None = None) -> tuple[Entry, bool]:
        """Take in what `send` wrote; answers the entry and whether it is new. Numbers that are here already stay whose they are.

        Raises:
            MalformedTensors, DamagedFile, NameTaken, BadText, NoUser, DirectionError. WrongModel: its signature is not that of
            the model it names.
        """
        sent = exchange.from_file(data)
        with self.database.writing() as session:
            self._user(session, user)
            known = session.scalars(select(tables.Model).where(tables.Model.hash == sent.model.hash)).first()
            if known is not None and not directions.same_weights(exchange.known(known).signature, sent.model.signature):
                raise WrongModel(
                    f"the file's signature is not that of the model it names, {known.name}",
                    received=sent.model.name,
                    allowed=f"the weights of {known.hash[:12]}",
                )
            held = self._held(session, sent)
            if held is not None:
                return finding.entry(session, held), False
        told = {**sent.direction.provenance, "imported": sent.direction.name}
        direction = replace(sent.direction, provenance=told)
        saved = self.save(direction, model=sent.model, user=user, name=name, description=sent.description, proven=False)
        return saved, True

    def _save(
        self, direction: directions.Direction, key: ModelKey, user: str | None, description: str | None, *, proven: bool
    ) -> Entry:
        with self.database.writing() as session:
            owner = self._user(session, user)
            model = self._model(session, key, proven=proven)
            sha256 = tensors.put(self.database, session, exchange.pack(direction))
            held = session.scalars(
                select(Direction).where(
                    Direction.owner_id == owner.id,
                    Direction.model_id == model.id,
                    Direction.name_key == text.key(direction.name),
                    Direction.deleted_at.is_(None),
                )
            ).first()
            if held is not None:
                facts = (held.tensors, held.site, held.head, held.space, held.offset, held.scale)
                d = direction
                if facts != (sha256, d.site, d.head, d.space, d.offset, d.scale):
                    raise _taken(direction.name)
                return finding.entry(session, held.id)
            at = now()
            row = Direction(
                id=str(uuid4()),
                owner_id=owner.id,
                model_id=model.id,
                tensors=sha256,
                name=direction.name,
                name_key=text.key(direction.name),
                site=direction.site,
                head=direction.head,
                space=direction.space,
                offset=direction.offset,
                scale=direction.scale,
                provenance=exchange.plain_json(direction.provenance),
                version=1,
                created_at=at,
                updated_at=at,
            )
            session.add(row)
            self._made(session, owner, row)
            if description is not None:
                self._describe(session, owner, row.id, description)
            return finding.entry(session, row.id)

    def _model(self, session: Session, key: ModelKey, *, proven: bool) -> tables.Model:
        """The row of a model. Who has it corrects the name that a file gave it; one of other weights keeps a row of its own."""
        asked = select(tables.Model).where(tables.Model.hash == key.hash)
        row = session.scalars(asked).first()
        if proven and row is not None and not row.proven:
            if directions.same_weights(exchange.known(row).signature, key.signature):
                row.name, row.signature, row.proven = key.name, _weights(key), True
            else:
                row.hash = f"claimed {row.id} {row.hash}"[:128]
            session.flush()
        values = {"hash": key.hash, "name": key.name, "signature": _weights(key), "proven": proven, "created_at": now()}
        insert = self.database.insert(tables.Model).values(**values)
        session.execute(insert.on_conflict_do_nothing(index_elements=["hash"]))
        return session.scalars(asked).one()

    def _held(self, session: Session, sent: Sent) -> str | None:
        d = sent.direction
        sha256 = tensors.digest(exchange.pack(d))
        query = select(Direction.id).join(tables.Model, tables.Model.id == Direction.model_id)
        query = query.where(
            Direction.tensors == sha256, Direction.deleted_at.is_(None), tables.Model.hash == sent.model.hash
        )
        query = query.where(Direction.site == d.site, Direction.head.is_not_distinct_from(d.head))
        query = query.where(Direction.space == d.space, Direction.offset == d.offset)
        return session.scalars(query.order_by(Direction.created_at, Direction.id).limit(1)).first()

    def _sent(self, id: str) -> Sent:
        with self.database.reading() as session:
            row = live(session, Direction, id)
            model = session.get_one(tables.Model, row.model_id)
            read, write = exchange.unpack(tensors.get(self.database, session, row.tensors))
            found = directions.Direction(
                read,
                write,
                row.site,
                offset=row.offset,
                scale=row.scale,
                name=row.name,
                space=row.space,
                provenance=row.provenance,
                head=row.head,
            )
            description = finding.entry(session, id).description
        return Sent(found, exchange.known(model), description)


def cosine(one: Tensor, other: Tensor) -> float:
    """Of two vectors; of other widths there is none, and of a vector of nothing."""
    if one.shape != other.shape:
        return float("nan")
    return float(torch.dot(one, other) / (one.norm() * other.norm()))


def _weights(key: ModelKey) -> bytes:
    found: bytes = key.signature.contiguous().numpy().tobytes()
    return found


def _taken(name: str) -> NameTaken:
    return NameTaken("another direction of yours in that model has the name", received=name, fix="give it another name")
