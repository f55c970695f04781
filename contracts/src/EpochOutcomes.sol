// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {AccessControl} from "@openzeppelin/contracts/access/AccessControl.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {EIP712} from "@openzeppelin/contracts/utils/cryptography/EIP712.sol";
import {Math} from "@openzeppelin/contracts/utils/math/Math.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Committee} from "./Committee.sol";
import {EpochRewardsBase} from "./EpochRewardsBase.sol";
import {INodeRegistry} from "./INodeRegistry.sol";
import {RewardPot} from "./RewardPot.sol";
import {TokenPull} from "./TokenPull.sol";

/// @title From what a committee signs to what counts
/// @notice Outcomes form a chain: each names its parent, the committee of the next and the dispute committee of the
/// next. A posted one is pending for the dispute window; then anybody makes it final, in their order. Pending ones lie
/// in a ring of single slots, a hash each: who finalizes or disputes gives back what the event said.
///
/// A slot is `hash (208 bits) | sequence (40) | status (8)`; the hash covers digest, last epoch, total, next committee,
/// time and signers. Two that collide take 2^104 tries to find.
abstract contract EpochOutcomes is EpochRewardsBase, AccessControl, ReentrancyGuardTransient, EIP712 {
    using SafeERC20 for IERC20;
    using TokenPull for IERC20;

    /// @notice The token of rewards and bonds.
    IERC20 public immutable token;
    /// @notice Where nodes are registered; this contract is one of its slashers.
    INodeRegistry public immutable registry;
    /// @notice Holds all that is not granted yet; this contract holds what is, and is not paid out.
    RewardPot public immutable pot;
    // Bytes of a packed post before its signatures.
    uint256 internal constant POST_BYTES = 264;

    uint64 public immutable genesisTime;
    uint64 public immutable epochSeconds;
    uint64 public immutable startEpoch;
    uint128 public immutable emissionPerEpoch;
    uint64 public immutable halvingEpochs;
    uint128 public immutable deliveryPerEpoch;
    uint64 public immutable disputeWindow;
    uint64 public immutable resolveWindow;
    uint64 public immutable resetAfter;
    uint128 public immutable disputeBond;
    uint128 public immutable disputeReward;
    uint128 public immutable signerPenalty;
    uint16 public immutable ringSize;

    /// @notice Sequence and last epoch of the last final outcome; whether there is one at all.
    uint64 public finalSequence;
    uint64 public finalEpoch;
    bool public bootstrapped;
    /// @notice The root that claims are proven against.
    bytes32 public rewardRoot;
    /// @notice Everything that final outcomes grant. What of it is not paid out is this contract's balance.
    uint128 public cumulativeTotal;
    /// @notice Paid in for the emission, out of the treasury; and for rewards of delivery, out of fees.
    uint128 public emissionFunded;
    uint128 public deliveryFunded;
    /// @notice What is left for those who dispute rightly.
    uint128 public bounties;
    /// @notice Roots of slashes of final outcomes, by their last epoch.
    mapping(uint64 lastEpoch => bytes32) public slashRoots;
    /// @notice Bonds and bounties that wait to be withdrawn.
    mapping(address account => uint256) public credits;
    mapping(uint64 sequence => Dispute) public disputes;
    /// @notice Outcomes that were replaced, once their replacement is final: their signers can be slashed.
    mapping(uint64 sequence => Wrong) public condemned;

    /// As many places as any network may have; an array, so that finding one takes no hash.
    uint256[MAX_RING] private _ring;
    mapping(uint64 sequence => Wrong) private _accused;

    constructor(Config memory c) EIP712("Muster EpochRewards", "1") {
        if (c.token == address(0) || c.registry == address(0) || c.admin == address(0)) revert BadAddress();
        bool good = c.epochSeconds != 0 && c.halvingEpochs != 0 && c.ringSize >= 2 && c.ringSize <= MAX_RING;
        good = good && c.disputeWindow != 0 && c.disputeWindow <= MAX_WINDOW;
        good = good && c.resolveWindow != 0 && c.resolveWindow <= MAX_WINDOW;
        // Whoever is silent must have had the time to finalize.
        good = good && c.resetAfter >= c.disputeWindow && c.disputeBond != 0;
        if (!good) revert OutOfBounds();
        token = IERC20(c.token);
        registry = INodeRegistry(c.registry);
        pot = new RewardPot(IERC20(c.token));
        genesisTime = c.genesisTime;
        epochSeconds = c.epochSeconds;
        startEpoch = c.startEpoch;
        emissionPerEpoch = c.emissionPerEpoch;
        halvingEpochs = c.halvingEpochs;
        deliveryPerEpoch = c.deliveryPerEpoch;
        disputeWindow = c.disputeWindow;
        resolveWindow = c.resolveWindow;
        resetAfter = c.resetAfter;
        disputeBond = c.disputeBond;
        disputeReward = c.disputeReward;
        signerPenalty = c.signerPenalty;
        ringSize = c.ringSize;
        _grantRole(DEFAULT_ADMIN_ROLE, c.admin);
        _grantRole(GOVERNOR_ROLE, c.admin);
    }

    // ---- funding -------------------------------------------------------------------------------------------------

    /// @notice Pays in for the emission, for rewards of delivery, and for those who dispute rightly.
    function fund(uint128 emission_, uint128 delivery, uint128 bounties_) external nonReentrant {
        uint256 sum = uint256(emission_) + delivery + bounties_;
        if (sum == 0) revert ZeroAmount();
        emissionFunded += emission_;
        deliveryFunded += delivery;
        bounties += bounties_;
        emit Funded(msg.sender, emission_, delivery, bounties_);
        _pullToPot(sum);
    }

    // ---- outcomes ------------------------------------------------------------------------------------------------

    /// @notice Posts the outcome that follows another, signed by two thirds of the committee that that one names.
    /// Everything is packed, big-endian, since a network posts every epoch:
    /// - bytes 0..68 of the outcome before: digest (32), sequence (8), time of posting (8), total (16), signers (4);
    /// - bytes 68..72: bit i is set where member i signed this one;
    /// - bytes 72..264, the outcome: first epoch (8), last epoch (8), total (16), root of rewards, root of slashes, hash
    ///   of the data, next committee, next dispute committee (32 each);
    /// - then per member, in the order of the draw: its EIP-2098 signature (64), or where it did not sign its address
    ///   (20).
    function post(bytes calldata packed) external {
        if (packed.length < POST_BYTES) revert BadPost(packed.length);
        bytes32 digest = _packedDigest(packed);
        uint256 signers = _word(packed, 40) & 0xffffffff;
        uint256 span = _word(packed, 72);
        uint256 sequence = _checkBefore(packed, span, _signedBy(digest, signers, packed[POST_BYTES:]));
        uint256 place = sequence % ringSize;
        uint256 slot = _ring[place];
        if (_sequenceOf(slot) == sequence) revert AlreadyPosted(sequence);
        slot &= 0xff;
        if (slot != STATUS_NONE && slot != STATUS_FINAL) revert RingFull();
        // Packed fields are cut out of their word on purpose.
        // forge-lint: disable-next-line(unsafe-typecast)
        uint256 numbers = (uint256(uint64(span >> 128)) << 192) | (block.timestamp << 128) | uint128(span);
        _ring[place] = _slot(digest, bytes32(_word(packed, 200)), numbers, signers, sequence, STATUS_PENDING);
        bytes32 topic = OutcomePosted.selector;
        assembly ("memory-safe") {
            // The event's words: the numbers with who signed (the time of posting leaves 32 bits free until 2106), and
            // the five hashes as they were packed.
            let at := mload(0x40)
            mstore(at, or(numbers, shl(160, signers)))
            calldatacopy(add(at, 0x20), add(packed.offset, 104), 0xa0)
            log2(at, 0xc0, topic, sequence)
        }
    }

    /// @notice Makes the next pending outcome count, once its window has passed or the dispute committee has spoken.
    function finalize(Posted calldata p) external nonReentrant {
        (, uint8 status) = _onRecord(p);
        uint64 sequence = p.sequence;
        if (sequence != finalSequence + 1) revert NotNext(finalSequence + 1);
        if (status == STATUS_PENDING) {
            uint64 from = p.postedAt + disputeWindow;
            if (block.timestamp < from) revert TooEarly(from);
        } else if (status != STATUS_UPHELD && status != STATUS_REPLACED) {
            revert WrongStatus(sequence, status);
        }
        Outcome calldata o = p.outcome;
        uint256 covered = coveredThrough(o.lastEpoch);
        if (o.cumulativeTotal > covered) revert NotCovered(o.cumulativeTotal, covered);
        _setStatus(sequence, STATUS_FINAL);
        finalSequence = sequence;
        finalEpoch = o.lastEpoch;
        rewardRoot = o.rewardRoot;
        uint128 granted = o.cumulativeTotal - cumulativeTotal;
        cumulativeTotal = o.cumulativeTotal;
        if (o.slashRoot != 0) slashRoots[o.lastEpoch] = o.slashRoot;
        if (status == STATUS_REPLACED) condemned[sequence] = _accused[sequence];
        emit OutcomeFinal(sequence, o.lastEpoch, o.rewardRoot, o.cumulativeTotal);
        if (granted != 0) pot.pay(address(this), granted);
    }

    // ---- disputes ------------------------------------------------------------------------------------------------

    /// @notice Names a pending outcome wrong, with a bond. Neither it nor any after it becomes final until the dispute
    /// committee has spoken.
    function dispute(Posted calldata p) external nonReentrant {
        (, uint8 status) = _onRecord(p);
        if (status != STATUS_PENDING) revert WrongStatus(p.sequence, status);
        _setStatus(p.sequence, STATUS_DISPUTED);
        uint64 until = uint64(block.timestamp) + resolveWindow;
        disputes[p.sequence] = Dispute({by: msg.sender, until: until});
        emit OutcomeDisputed(p.sequence, msg.sender, until);
        _pullToPot(disputeBond);
    }

    /// @notice Brings the outcome that the dispute committee signed for the place of a disputed one. If it is the posted
    /// one, that one stands, and the bond goes to the penalty pool. Else it takes its place; all after it fall and are
    /// posted anew, and the bond comes back with a bounty. Nobody can dispute it again.
    /// @param parent the outcome before, which names the dispute committee
    function resolve(
        Posted calldata parent,
        Posted calldata disputed,
        Outcome calldata right,
        uint32 signers,
        bytes calldata signatures
    ) external nonReentrant {
        (bytes32 posted, uint8 status) = _onRecord(disputed);
        uint64 sequence = disputed.sequence;
        if (status != STATUS_DISPUTED && status != STATUS_LAPSED) revert WrongStatus(sequence, status);
        // The disputed outcome is on record and names its parent: nothing else needs to be known of that.
        if (_digest(parent.parent, parent.outcome) != disputed.parent) revert NotOnRecord(sequence - 1);
        bytes32 digest = _digest(disputed.parent, right);
        bytes32 committee = _signedBy(digest, signers, signatures);
        if (committee != parent.outcome.nextDisputeCommittee) {
            revert WrongCommittee(parent.outcome.nextDisputeCommittee, committee);
        }
        emit DisputeResolved(sequence, posted, digest);
        if (digest == posted) {
            _setStatus(sequence, STATUS_UPHELD);
            if (status == STATUS_DISPUTED) _credit(registry.penaltyPool(), disputeBond);
            return;
        }
        if (right.firstEpoch != parent.outcome.lastEpoch + 1) revert WrongEpochs(parent.outcome.lastEpoch + 1);
        _checkGrowth(parent.outcome.cumulativeTotal, _span(right));
        _accused[sequence] = Wrong({digest: posted, committee: parent.outcome.nextCommittee, signers: disputed.signers});
        _dropAfter(sequence);
        _record(sequence, digest, right, signers, STATUS_REPLACED);
        if (status == STATUS_DISPUTED) {
            uint128 bounty = bounties < disputeReward ? bounties : disputeReward;
            bounties -= bounty;
            _credit(disputes[sequence].by, uint256(disputeBond) + bounty);
        }
    }

    /// @notice Ends a dispute whose committee stayed silent: the disputed outcome falls with all after it, the bond comes
    /// back, and only the dispute committee can fill the place, by {resolve}, however late.
    function lapse(uint64 sequence) external {
        uint256 slot = _ring[sequence % ringSize];
        // forge-lint: disable-next-line(unsafe-typecast)
        uint8 status = _sequenceOf(slot) == sequence ? uint8(slot) : STATUS_NONE;
        if (status != STATUS_DISPUTED) revert WrongStatus(sequence, status);
        Dispute memory d = disputes[sequence];
        if (block.timestamp < d.until) revert TooEarly(d.until);
        _setStatus(sequence, STATUS_LAPSED);
        emit DisputeLapsed(sequence);
        _dropAfter(sequence);
        _credit(d.by, disputeBond);
    }

    /// @notice Pays out bonds and bounties; anybody may call it for anybody.
    function withdrawCredit(address account) external nonReentrant {
        uint256 amount = credits[account];
        if (amount == 0) revert NothingToClaim();
        credits[account] = 0;
        emit CreditWithdrawn(account, amount);
        pot.pay(account, amount);
    }

    // ---- the governor --------------------------------------------------------------------------------------------

    /// @notice Names the committees of the first outcome, which begins after `lastEpoch`. Once.
    function bootstrap(uint64 lastEpoch, bytes32 committee, bytes32 disputeCommittee) external onlyRole(GOVERNOR_ROLE) {
        if (bootstrapped) revert AlreadyBootstrapped();
        if (committee == 0 || disputeCommittee == 0 || uint256(lastEpoch) + 1 < startEpoch) revert OutOfBounds();
        bootstrapped = true;
        finalEpoch = lastEpoch;
        Outcome memory o = Outcome(0, lastEpoch, 0, 0, 0, 0, 0, 0);
        _name(0, 0, o, committee, disputeCommittee);
    }

    /// @notice Names new committees for the next outcome where nothing has been posted for `resetAfter` seconds: all
    /// that was posted must be final first, or have lapsed. Nothing else of the last final outcome `p` changes.
    function resetCommittees(Posted calldata p, bytes32 committee, bytes32 disputeCommittee)
        external
        onlyRole(GOVERNOR_ROLE)
    {
        if (committee == 0 || disputeCommittee == 0) revert OutOfBounds();
        (bytes32 digest, uint8 status) = _onRecord(p);
        uint64 sequence = p.sequence;
        if (status != STATUS_FINAL || sequence != finalSequence) revert WrongStatus(sequence, status);
        uint64 since = p.postedAt;
        uint256 next = _ring[(sequence + 1) % ringSize];
        if (_sequenceOf(next) == sequence + 1) {
            // forge-lint: disable-next-line(unsafe-typecast)
            if (uint8(next) != STATUS_LAPSED) revert WrongStatus(sequence + 1, uint8(next));
            since = disputes[sequence + 1].until;
            delete _ring[(sequence + 1) % ringSize];
            emit OutcomeFell(sequence + 1);
        }
        if (block.timestamp < since + resetAfter) revert TooEarly(since + resetAfter);
        _name(sequence, digest, p.outcome, committee, disputeCommittee);
    }

    // ---- views ---------------------------------------------------------------------------------------------------

    /// @notice The EIP-712 struct hash of an outcome after `parent`.
    function outcomeDigest(bytes32 parent, Outcome calldata o) external pure returns (bytes32) {
        return _digest(parent, o);
    }

    /// @notice What a committee signs: {outcomeDigest} in this contract's domain.
    function signingDigest(bytes32 parent, Outcome calldata o) external view returns (bytes32) {
        return _hashTypedDataV4(_digest(parent, o));
    }

    /// @notice How far whatever stands at a sequence is; 0 where nothing does, or no longer.
    function statusAt(uint64 sequence) external view returns (uint8) {
        uint256 slot = _ring[sequence % ringSize];
        // forge-lint: disable-next-line(unsafe-typecast)
        return _sequenceOf(slot) == sequence ? uint8(slot) : STATUS_NONE;
    }

    /// @notice The emission of some epochs together: halved every `halvingEpochs` from the start epoch on.
    function emission(uint64 first, uint64 last) public view returns (uint256 sum) {
        if (last < first || last < startEpoch) return 0;
        // Nothing overflows: a sum of 2^64 epochs of less than 2^128 each.
        unchecked {
            uint256 at = first < startEpoch ? 0 : first - startEpoch;
            uint256 end = last - startEpoch;
            for (uint256 period = at / halvingEpochs; period < 128; ++period) {
                uint256 next = (period + 1) * halvingEpochs;
                if (next > end) return sum + (end + 1 - at) * (emissionPerEpoch >> period);
                sum += (next - at) * (emissionPerEpoch >> period);
                at = next;
            }
        }
    }

    /// @notice The most that can be final through an epoch: emission as far as it is both scheduled and paid in, and all
    /// that was paid in out of fees.
    function coveredThrough(uint64 epoch) public view returns (uint256) {
        return Math.min(emission(startEpoch, epoch), emissionFunded) + deliveryFunded;
    }

    // ---- inside --------------------------------------------------------------------------------------------------

    /// The committee whose members signed, two thirds of it at least.
    function _signedBy(bytes32 digest, uint256 signers, bytes calldata signatures) private view returns (bytes32) {
        (bytes32 committee, uint256 members, uint256 signed) =
            Committee.recover(_hashTypedDataV4(digest), signers, signatures);
        unchecked {
            if (signed == 0 || signed * 3 < members * 2) revert TooFewSignatures(signed, members);
        }
        return committee;
    }

    /// That the outcome before is on record as a packed post says, names this committee, and allows what follows.
    /// @return the sequence of what follows
    function _checkBefore(bytes calldata packed, uint256 span, bytes32 committee) private view returns (uint256) {
        // Sequence, time of posting and total.
        uint256 heads = _word(packed, 32);
        uint256 sequence = heads >> 192;
        uint256 slot = _ring[sequence % ringSize];
        uint256 status = slot & 0xff;
        // The outcome before ended where this one begins, or another slot than that one's comes out.
        uint256 numbers = (((span >> 192) - 1) << 192) | (heads & ((1 << 192) - 1));
        uint256 signers = (_word(packed, 36) & 0xffffffff);
        if (slot != _slot(bytes32(_word(packed, 0)), committee, numbers, signers, sequence, status)) {
            revert NotOnRecord(sequence);
        }
        if (status == STATUS_LAPSED || status == STATUS_NONE) revert WrongStatus(sequence, status);
        // The low half of a packed word is meant.
        // forge-lint: disable-next-line(unsafe-typecast)
        _checkGrowth(uint128(heads), span);
        return sequence + 1;
    }

    /// The digest of a packed post's outcome.
    function _packedDigest(bytes calldata packed) private pure returns (bytes32 digest) {
        bytes32 typehash = OUTCOME_TYPEHASH;
        assembly ("memory-safe") {
            let at := mload(0x40)
            let from := packed.offset
            let span := calldataload(add(from, 72))
            mstore(at, typehash)
            mstore(add(at, 0x20), calldataload(from))
            mstore(add(at, 0x40), shr(192, span))
            mstore(add(at, 0x60), and(shr(128, span), 0xffffffffffffffff))
            mstore(add(at, 0x80), calldataload(add(from, 104)))
            mstore(add(at, 0xa0), shr(128, shl(128, span)))
            calldatacopy(add(at, 0xc0), add(from, 136), 0x80)
            digest := keccak256(at, 0x140)
        }
    }

    /// The word of a packed post that begins at a byte; there is always as much.
    function _word(bytes calldata packed, uint256 offset) private pure returns (uint256 word) {
        assembly ("memory-safe") {
            word := calldataload(add(packed.offset, offset))
        }
    }

    /// Epochs that are over already, and a total that grows no faster than they allow. `span` is first epoch, last epoch
    /// and total in a word.
    function _checkGrowth(uint256 total, uint256 span) private view {
        // Nothing overflows: 64 bits times 64 or 128, in 256.
        unchecked {
            uint256 first = span >> 192;
            // A packed field is cut out on purpose.
            // forge-lint: disable-next-line(unsafe-typecast)
            uint256 last = uint64(span >> 128);
            // A packed field is cut out on purpose.
            // forge-lint: disable-next-line(unsafe-typecast)
            uint256 grown = uint128(span);
            if (last < first) revert WrongEpochs(first);
            uint256 over = genesisTime + (last + 1) * epochSeconds;
            if (block.timestamp < over) revert EpochNotOver(over);
            // forge-lint: disable-next-line(unsafe-typecast)
            uint256 most = total + emission(uint64(first), uint64(last)) + (last + 1 - first) * deliveryPerEpoch;
            if (grown < total || grown > most) revert AboveCap(grown, most);
        }
    }

    /// Writes an outcome into its place and tells everything about it.
    function _record(uint64 sequence, bytes32 digest, Outcome memory o, uint256 signers, uint8 status) private {
        uint256 numbers = _numbers(o.lastEpoch, o.cumulativeTotal, uint64(block.timestamp));
        _ring[sequence % ringSize] = _slot(digest, o.nextCommittee, numbers, signers, sequence, status);
        emit OutcomePosted(
            sequence,
            numbers | (signers << 160),
            o.rewardRoot,
            o.slashRoot,
            o.dataHash,
            o.nextCommittee,
            o.nextDisputeCommittee
        );
    }

    function _span(Outcome memory o) private pure returns (uint256) {
        return (uint256(o.firstEpoch) << 192) | (uint256(o.lastEpoch) << 128) | o.cumulativeTotal;
    }

    /// Puts an outcome on record that nobody signed, with the governor's committees.
    function _name(uint64 sequence, bytes32 parent, Outcome memory o, bytes32 committee, bytes32 disputeCommittee)
        private
    {
        o.nextCommittee = committee;
        o.nextDisputeCommittee = disputeCommittee;
        bytes32 digest = keccak256(abi.encode(OUTCOME_TYPEHASH, parent, o));
        emit CommitteesReset(sequence, committee, disputeCommittee);
        _record(sequence, digest, o, 0, STATUS_FINAL);
    }

    /// Lets all outcomes after one fall, and gives the bonds of their disputes back. At most a ring's length.
    function _dropAfter(uint64 sequence) private {
        while (true) {
            ++sequence;
            uint256 place = sequence % ringSize;
            uint256 slot = _ring[place];
            if (slot == 0 || _sequenceOf(slot) != sequence) break;
            delete _ring[place];
            emit OutcomeFell(sequence);
            // forge-lint: disable-next-line(unsafe-typecast)
            if (uint8(slot) == STATUS_DISPUTED) _credit(disputes[sequence].by, disputeBond);
        }
    }

    function _pullToPot(uint256 amount) private {
        token.pull(msg.sender, amount);
        token.safeTransfer(address(pot), amount);
    }

    function _credit(address account, uint256 amount) internal {
        credits[account] += amount;
        emit CreditAdded(account, amount);
    }

    function _setStatus(uint64 sequence, uint8 status) private {
        uint256 place = sequence % ringSize;
        _ring[place] = (_ring[place] & ~uint256(0xff)) | status;
    }

    /// That an outcome is on record as it is given.
    function _onRecord(Posted calldata p) private view returns (bytes32 digest, uint8 status) {
        Outcome calldata o = p.outcome;
        digest = _digest(p.parent, o);
        uint256 slot = _ring[p.sequence % ringSize];
        // forge-lint: disable-next-line(unsafe-typecast)
        status = uint8(slot);
        uint256 numbers = _numbers(o.lastEpoch, o.cumulativeTotal, p.postedAt);
        if (status == STATUS_NONE || slot != _slot(digest, o.nextCommittee, numbers, p.signers, p.sequence, status)) {
            revert NotOnRecord(p.sequence);
        }
    }

    /// `keccak256(abi.encode(OUTCOME_TYPEHASH, parent, o))`, without taking the outcome apart. Where a field has bits
    /// that are not its own, reading it reverts elsewhere.
    function _digest(bytes32 parent, Outcome calldata o) private pure returns (bytes32 digest) {
        bytes32 typehash = OUTCOME_TYPEHASH;
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore(at, typehash)
            mstore(add(at, 0x20), parent)
            calldatacopy(add(at, 0x40), o, 0x100)
            digest := keccak256(at, 0x140)
        }
    }

    /// A slot: the upper 208 bits of the hash of all that the next outcome, or whoever finalizes, must know; then the
    /// sequence, then the status.
    function _slot(
        bytes32 digest,
        bytes32 committee,
        uint256 numbers,
        uint256 signers,
        uint256 sequence,
        uint256 status
    ) private pure returns (uint256 slot) {
        // Whole words on purpose: assembly sees the bits beyond a smaller type, a conversion clears them. A sequence of
        // more than 40 bits would reach into the hash, and might hide there.
        if (sequence >> 40 != 0) revert NotOnRecord(sequence);
        assembly ("memory-safe") {
            let at := mload(0x40)
            mstore(at, digest)
            mstore(add(at, 0x20), committee)
            mstore(add(at, 0x40), numbers)
            mstore(add(at, 0x60), signers)
            slot := or(or(shl(48, shr(48, keccak256(at, 0x80))), shl(8, sequence)), status)
        }
    }

    function _numbers(uint64 lastEpoch, uint128 total, uint64 postedAt) private pure returns (uint256) {
        return (uint256(lastEpoch) << 192) | (uint256(postedAt) << 128) | total;
    }

    function _sequenceOf(uint256 slot) private pure returns (uint256) {
        return (slot >> 8) & 0xffffffffff;
    }
}
