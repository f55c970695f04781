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
import {TokenPull} from "./TokenPull.sol";

/// @title From what a committee signs to what counts
/// @notice Outcomes form a chain: each names its parent, the committee of the next and the dispute committee of the
/// next. A posted one is pending for the dispute window; then anybody makes it final, in their order. Pending ones lie
/// in a ring of single slots, a hash each: who finalizes or disputes gives back what the event said.
///
/// A slot is `hash (208 bits) | sequence (40) | status (8)`; the hash covers digest, last epoch, total, next committee,
/// time and signers.
abstract contract EpochOutcomes is EpochRewardsBase, AccessControl, ReentrancyGuardTransient, EIP712 {
    using SafeERC20 for IERC20;
    using TokenPull for IERC20;

    /// @notice The token of rewards and bonds.
    IERC20 public immutable token;
    /// @notice Where nodes are registered; this contract is one of its slashers.
    INodeRegistry public immutable registry;
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
    /// @notice Everything that final outcomes grant, and what of it was claimed or seized.
    uint128 public cumulativeTotal;
    uint128 public claimedTotal;
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

    mapping(uint256 place => uint256) private _ring;
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
        token.pull(msg.sender, sum);
    }

    // ---- outcomes ------------------------------------------------------------------------------------------------

    /// @notice Posts the outcome that follows `prev`, signed by two thirds of the committee that `prev` names.
    /// @param signers bit i is set where member i signed
    /// @param signatures per member, in the order of the draw: its EIP-2098 signature, or where it did not sign its
    /// address
    function post(Link calldata prev, Outcome calldata o, uint32 signers, bytes calldata signatures) external {
        bytes32 digest = outcomeDigest(prev.digest, o);
        bytes32 committee = _signedBy(digest, signers, signatures);
        uint256 slot = _ring[prev.sequence % ringSize];
        uint256 expected = _hash(
            prev.digest, prev.lastEpoch, prev.cumulativeTotal, committee, prev.postedAt, prev.signers
        ) | (uint256(prev.sequence) << 8);
        // forge-lint: disable-next-line(unsafe-typecast)
        uint8 status = uint8(slot);
        if (slot - status != expected) revert NotOnRecord(prev.sequence);
        if (status == STATUS_LAPSED || status == STATUS_NONE) revert WrongStatus(prev.sequence, status);
        uint64 sequence = prev.sequence + 1;
        _checkGrowth(prev.lastEpoch, prev.cumulativeTotal, o);

        uint256 place = sequence % ringSize;
        uint256 before = _ring[place];
        if (_sequenceOf(before) == sequence) revert AlreadyPosted(sequence);
        // forge-lint: disable-next-line(unsafe-typecast)
        if (uint8(before) != STATUS_NONE && uint8(before) != STATUS_FINAL) revert RingFull();
        _record(place, sequence, digest, o, signers, STATUS_PENDING);
    }

    /// @notice Makes the next pending outcome count, once its window has passed or the dispute committee has spoken.
    function finalize(Posted calldata p) external {
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
        cumulativeTotal = o.cumulativeTotal;
        if (o.slashRoot != 0) slashRoots[o.lastEpoch] = o.slashRoot;
        if (status == STATUS_REPLACED) condemned[sequence] = _accused[sequence];
        emit OutcomeFinal(sequence, o.lastEpoch, o.rewardRoot, o.cumulativeTotal);
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
        token.pull(msg.sender, disputeBond);
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
        if (outcomeDigest(parent.parent, parent.outcome) != disputed.parent) revert NotOnRecord(sequence - 1);
        bytes32 digest = outcomeDigest(disputed.parent, right);
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
        _checkGrowth(parent.outcome.lastEpoch, parent.outcome.cumulativeTotal, right);
        _accused[sequence] =
            Wrong({digest: posted, committee: parent.outcome.nextCommittee, signers: disputed.signers});
        _dropAfter(sequence);
        _record(sequence % ringSize, sequence, digest, right, signers, STATUS_REPLACED);
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
        token.safeTransfer(account, amount);
    }

    // ---- the governor --------------------------------------------------------------------------------------------

    /// @notice Names the committees of the first outcome, which begins after `lastEpoch`. Once.
    function bootstrap(uint64 lastEpoch, bytes32 committee, bytes32 disputeCommittee)
        external
        onlyRole(GOVERNOR_ROLE)
    {
        if (bootstrapped) revert AlreadyBootstrapped();
        if (committee == 0 || disputeCommittee == 0 || uint256(lastEpoch) + 1 < startEpoch) revert OutOfBounds();
        bootstrapped = true;
        finalEpoch = lastEpoch;
        Outcome memory o;
        o.lastEpoch = lastEpoch;
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
    function outcomeDigest(bytes32 parent, Outcome memory o) public pure returns (bytes32) {
        return keccak256(abi.encode(OUTCOME_TYPEHASH, parent, o));
    }

    /// @notice What a committee signs: {outcomeDigest} in this contract's domain.
    function signingDigest(bytes32 parent, Outcome calldata o) external view returns (bytes32) {
        return _hashTypedDataV4(outcomeDigest(parent, o));
    }

    /// @notice Whether an outcome is on record as it is given, and how far it is.
    function statusOf(Posted calldata p) external view returns (bool onRecord, uint8 status) {
        uint256 slot = _ring[p.sequence % ringSize];
        (, uint256 expected) = _expected(p);
        // forge-lint: disable-next-line(unsafe-typecast)
        status = uint8(slot);
        onRecord = status != STATUS_NONE && slot - status == expected;
        if (!onRecord) status = STATUS_NONE;
    }

    /// @notice How far whatever stands at a sequence is; 0 where nothing does, or no longer.
    function statusAt(uint64 sequence) external view returns (uint8) {
        uint256 slot = _ring[sequence % ringSize];
        // forge-lint: disable-next-line(unsafe-typecast)
        return _sequenceOf(slot) == sequence ? uint8(slot) : STATUS_NONE;
    }

    /// @notice The emission of some epochs together: halved every `halvingEpochs` from the start epoch on.
    function emission(uint64 first, uint64 last) public view returns (uint256 sum) {
        uint256 at = first < startEpoch ? 0 : first - startEpoch;
        if (last < startEpoch) return 0;
        uint256 end = last - startEpoch;
        while (at <= end) {
            uint256 period = at / halvingEpochs;
            uint256 each = period < 128 ? emissionPerEpoch >> period : 0;
            if (each == 0) break;
            uint256 stop = Math.min(end, (period + 1) * halvingEpochs - 1);
            sum += (stop - at + 1) * each;
            at = stop + 1;
        }
    }

    /// @notice The most that can be final through an epoch: emission as far as it is both scheduled and paid in, and all
    /// that was paid in out of fees.
    function coveredThrough(uint64 epoch) public view returns (uint256) {
        return Math.min(emission(startEpoch, epoch), emissionFunded) + deliveryFunded;
    }

    // ---- inside --------------------------------------------------------------------------------------------------

    /// The committee whose members signed, two thirds of it at least.
    function _signedBy(bytes32 digest, uint32 signers, bytes calldata signatures) private view returns (bytes32) {
        (bytes32 committee, uint256 members, uint256 signed) =
            Committee.recover(_hashTypedDataV4(digest), signers, signatures);
        if (signed == 0 || signed * 3 < members * 2) revert TooFewSignatures(signed, members);
        return committee;
    }

    /// Epochs without a gap, over already, and a total that grows no faster than they allow.
    function _checkGrowth(uint64 lastEpoch, uint128 total, Outcome calldata o) private view {
        uint64 first = o.firstEpoch;
        uint64 last = o.lastEpoch;
        if (first != lastEpoch + 1 || last < first) revert WrongEpochs(lastEpoch + 1);
        uint256 over = genesisTime + (uint256(last) + 1) * epochSeconds;
        // forge-lint: disable-next-line(unsafe-typecast)
        if (block.timestamp < over) revert EpochNotOver(uint64(Math.min(over, type(uint64).max)));
        uint256 most = total + emission(first, last) + (uint256(last) - first + 1) * deliveryPerEpoch;
        if (o.cumulativeTotal < total || o.cumulativeTotal > most) revert AboveCap(o.cumulativeTotal, most);
    }

    /// Writes an outcome into its place and tells everything about it.
    function _record(uint256 place, uint64 sequence, bytes32 digest, Outcome memory o, uint32 signers, uint8 status)
        private
    {
        uint64 now_ = uint64(block.timestamp);
        _ring[place] = _hash(digest, o.lastEpoch, o.cumulativeTotal, o.nextCommittee, now_, signers)
            | (uint256(sequence) << 8) | status;
        emit OutcomePosted(sequence, digest, o, now_, signers);
    }

    /// Puts an outcome on record that nobody signed, with the governor's committees.
    function _name(uint64 sequence, bytes32 parent, Outcome memory o, bytes32 committee, bytes32 disputeCommittee)
        private
    {
        o.nextCommittee = committee;
        o.nextDisputeCommittee = disputeCommittee;
        emit CommitteesReset(sequence, committee, disputeCommittee);
        _record(sequence % ringSize, sequence, outcomeDigest(parent, o), o, 0, STATUS_FINAL);
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
        uint256 expected;
        (digest, expected) = _expected(p);
        uint256 slot = _ring[p.sequence % ringSize];
        // forge-lint: disable-next-line(unsafe-typecast)
        status = uint8(slot);
        if (status == STATUS_NONE || slot - status != expected) revert NotOnRecord(p.sequence);
    }

    function _expected(Posted calldata p) private pure returns (bytes32 digest, uint256 slot) {
        Outcome calldata o = p.outcome;
        digest = outcomeDigest(p.parent, o);
        slot = _hash(digest, o.lastEpoch, o.cumulativeTotal, o.nextCommittee, p.postedAt, p.signers)
            | (uint256(p.sequence) << 8);
    }

    /// The upper 208 bits of the hash of all that the next outcome, or whoever finalizes, must know.
    function _hash(
        bytes32 digest,
        uint64 lastEpoch,
        uint128 total,
        bytes32 committee,
        uint64 postedAt,
        uint32 signers
    ) private pure returns (uint256) {
        bytes32 full = keccak256(abi.encode(digest, lastEpoch, total, committee, postedAt, signers));
        return (uint256(full) >> 48) << 48;
    }

    function _sequenceOf(uint256 slot) private pure returns (uint64) {
        return uint64((slot >> 8) & 0xffffffffff);
    }
}
