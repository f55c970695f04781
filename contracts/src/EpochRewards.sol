// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {EpochOutcomes} from "./EpochOutcomes.sol";
import {MerklePath} from "./MerklePath.sol";
import {Vesting} from "./Vesting.sol";

/// @title Rewards and slashes of the epochs
/// @notice Whoever has a leaf under the last final root is paid what its cumulative amount adds: a part at once, the
/// rest vests. Anybody can bring a leaf; the tokens go to the account that it names. Slashes under a final root take
/// what the node has in rewards, where its reward is given too, then its stake.
///
/// All together never get more than final outcomes grant, since this contract holds no more than that; and those never
/// grant more than was paid in.
contract EpochRewards is EpochOutcomes {
    using SafeERC20 for IERC20;
    using Vesting for Vesting.Account;

    uint256 private constant BPS = 10_000;
    uint8 private constant KIND_CHECKER = 3;

    uint16 public immutable immediateBps;
    uint64 public immutable vestingPeriod;
    /// @notice Vesting counts seconds from here.
    uint64 public immutable deployedAt;

    /// @notice What was taken from a reward before it was claimed.
    mapping(bytes32 id => uint96) public seizedUnclaimed;
    /// @notice Of a slash, by node and evidence: 0 while it may be executed, else one more than what it may still take
    /// from rewards. A slash that the stake covered whole is remembered by the registry alone.
    mapping(bytes32 slash => uint256) public slashRest;
    /// @notice What signers of wrong outcomes have lost for it.
    mapping(uint64 sequence => mapping(address signer => uint128)) public signerLost;

    mapping(bytes32 id => Vesting.Account) internal _accounts;

    constructor(Config memory c) EpochOutcomes(c) {
        bool good = c.immediateBps <= BPS && c.vestingPeriod != 0 && c.vestingPeriod <= MAX_VESTING_PERIOD;
        if (!good) revert OutOfBounds();
        immediateBps = c.immediateBps;
        vestingPeriod = c.vestingPeriod;
        deployedAt = uint64(block.timestamp);
    }

    // ---- rewards -------------------------------------------------------------------------------------------------

    /// @notice Claims what a leaf adds to what was claimed under it before.
    /// @return paid what was paid at once
    function claim(Reward calldata leaf, bytes32[] calldata proof) external returns (uint128 paid) {
        bytes32 id = _prove(leaf, proof);
        Vesting.Account storage a = _accounts[id];
        Vesting.Head memory h = a.read();
        if (leaf.cumulative <= h.claimed) revert NothingToClaim();
        uint96 cumulative = SafeCast.toUint96(leaf.cumulative);
        uint96 seized = h.seized ? seizedUnclaimed[id] : 0;
        // Seized was counted as claimed, and what is paid at once never falls as the amount grows.
        unchecked {
            uint96 amount = cumulative - h.claimed;
            uint96 before = h.claimed - seized;
            uint96 vesting = _vestingPart(before);
            paid = amount - (_vestingPart(before + amount) - vesting);
            a.advance(h, vesting, Vesting.step(block.timestamp - deployedAt, vestingPeriod));
            h.claimed = cumulative;
            a.head = Vesting.pack(h);
            emit RewardClaimed(leaf.kind, leaf.key, leaf.account, amount, paid);
        }
        if (paid != 0) token.safeTransfer(leaf.account, paid);
    }

    /// @notice Pays out what has vested of what was claimed.
    function release(uint8 kind, bytes32 key, address account) external returns (uint128 amount) {
        bytes32 id = rewardId(kind, key, account);
        Vesting.Account storage a = _accounts[id];
        Vesting.Head memory h = a.read();
        (, uint96 vested) = _vested(a, h, id);
        if (vested <= h.released) revert NothingToClaim();
        amount = vested - h.released;
        h.released = vested;
        a.head = Vesting.pack(h);
        emit RewardReleased(kind, key, account, amount);
        token.safeTransfer(account, amount);
    }

    // ---- slashes -------------------------------------------------------------------------------------------------

    /// @notice Executes a slash against the node's stake. Anybody may.
    // The registry never changes, calls nobody here, and every way in is guarded against being entered again.
    // slither-disable-next-line reentrancy-no-eth
    function slash(Slash calldata leaf, bytes32[] calldata proof) external nonReentrant returns (uint128 taken) {
        bytes32 id = _proveSlash(leaf, proof);
        if (slashRest[id] != 0) revert AlreadySlashed(leaf.evidence);
        taken = registry.slash(leaf.nodeKey, leaf.amount, leaf.evidence);
        if (taken < leaf.amount) slashRest[id] = uint256(leaf.amount) - taken + 1;
        emit SlashExecuted(leaf.nodeKey, leaf.amount, taken, leaf.evidence);
    }

    /// @notice Executes a slash against the node's rewards first: what is not claimed of `reward`, then what has not been
    /// released, then against its stake. What a {slash} before this could not take is taken from rewards, too.
    // The registry never changes, calls nobody here, and every way in is guarded against being entered again.
    // slither-disable-next-line reentrancy-no-eth
    function slashWithReward(
        Slash calldata leaf,
        bytes32[] calldata proof,
        Reward calldata reward,
        bytes32[] calldata rewardProof
    ) external nonReentrant returns (uint128 taken) {
        bytes32 id = _proveSlash(leaf, proof);
        _prove(reward, rewardProof);
        if (reward.key != leaf.nodeKey || reward.kind == KIND_LICENCES) revert WrongNode(reward.key);
        uint256 rest = slashRest[id];
        if (rest == 1 || (rest == 0 && registry.evidenceUsed(leaf.nodeKey, leaf.evidence))) {
            revert AlreadySlashed(leaf.evidence);
        }
        uint128 due = rest == 0 ? leaf.amount : SafeCast.toUint128(rest - 1);
        uint128 seized = _seize(reward, due, leaf.evidence);
        taken = seized;
        if (rest == 0 && seized < due) taken += registry.slash(leaf.nodeKey, due - seized, leaf.evidence);
        else if (seized == 0) revert NothingToClaim();
        slashRest[id] = uint256(due) - taken + 1;
        emit SlashExecuted(leaf.nodeKey, leaf.amount, taken, leaf.evidence);
        if (seized != 0) token.safeTransfer(registry.penaltyPool(), seized);
    }

    /// @notice Slashes a member of a committee that signed an outcome which another one has replaced for good. All its
    /// Checkers together lose the signer's penalty once.
    /// @param committee its members, in the order of the draw
    /// @param position which of them
    /// @param nodeKey a Checker that this member owns
    // The registry never changes, calls nobody here, and every way in is guarded against being entered again.
    // slither-disable-next-line reentrancy-no-eth
    function slashSigner(uint64 sequence, address[] calldata committee, uint256 position, bytes32 nodeKey)
        external
        nonReentrant
        returns (uint128 taken)
    {
        Wrong memory wrong = condemned[sequence];
        bytes32 found = keccak256(abi.encodePacked(committee));
        if (found != wrong.committee) revert WrongCommittee(wrong.committee, found);
        address member = committee[position];
        // slither-disable-next-line unused-return -- a jailed Checker loses its stake, too
        (address owner, uint8 kind,) = registry.identity(nodeKey);
        if ((wrong.signers >> position) & 1 == 0 || owner != member || kind != KIND_CHECKER) revert NotASigner(member);
        uint128 lost = signerLost[sequence][member];
        if (lost >= signerPenalty) revert AlreadySlashed(wrong.digest);
        taken = registry.slash(nodeKey, signerPenalty - lost, wrong.digest);
        signerLost[sequence][member] = lost + taken;
        emit SignerSlashed(sequence, member, nodeKey, taken);
    }

    // ---- views ---------------------------------------------------------------------------------------------------

    /// @notice What a reward is kept under.
    function rewardId(uint8 kind, bytes32 key, address account) public pure returns (bytes32) {
        return keccak256(abi.encode(kind, key, account));
    }

    /// @notice Of a reward: claimed so far (what was seized before included), vesting in all, released of that (what was
    /// seized of it included), and what could be released now.
    function rewardOf(uint8 kind, bytes32 key, address account)
        external
        view
        returns (uint128 claimed, uint128 vesting, uint128 released, uint128 releasable)
    {
        bytes32 id = rewardId(kind, key, account);
        Vesting.Account storage a = _accounts[id];
        Vesting.Head memory h = a.read();
        uint96 vested;
        (vesting, vested) = _vested(a, h, id);
        claimed = h.claimed;
        released = h.released;
        releasable = vested > released ? vested - released : 0;
    }

    // ---- inside --------------------------------------------------------------------------------------------------

    /// Takes up to `amount` of what is not claimed of a reward, then of what has not been released.
    function _seize(Reward calldata reward, uint128 amount, bytes32 evidence) private returns (uint128 taken) {
        bytes32 id = rewardId(reward.kind, reward.key, reward.account);
        Vesting.Head memory h = _accounts[id].read();
        uint96 unclaimed = reward.cumulative > h.claimed ? SafeCast.toUint96(reward.cumulative) - h.claimed : 0;
        // Smaller than what it is cut to, which fits.
        // forge-lint: disable-next-line(unsafe-typecast)
        if (unclaimed > amount) unclaimed = uint96(amount);
        uint96 seized = seizedUnclaimed[id] + unclaimed;
        if (unclaimed != 0) {
            h.claimed += unclaimed;
            h.seized = true;
            seizedUnclaimed[id] = seized;
        }
        uint96 locked = _vestingPart(h.claimed - seized) - h.released;
        // forge-lint: disable-next-line(unsafe-typecast)
        if (locked > amount - unclaimed) locked = uint96(amount - unclaimed);
        // Counted as released: what vests next is what was taken.
        h.released += locked;
        _accounts[id].head = Vesting.pack(h);
        taken = unclaimed + locked;
        if (taken != 0) emit RewardSeized(reward.key, unclaimed, locked, evidence);
    }

    /// Shows that a leaf is under the root that counts, and tells what it is kept under.
    function _prove(Reward calldata leaf, bytes32[] calldata proof) private view returns (bytes32 id) {
        bytes32 hash;
        // {rewardId}, and the leaf in its tree; bits that are not a field's make the leaf another one.
        assembly ("memory-safe") {
            let at := mload(0x40)
            calldatacopy(at, leaf, 0x80)
            id := keccak256(at, 0x60)
            mstore(0, keccak256(at, 0x80))
            hash := keccak256(0, 0x20)
        }
        if (MerklePath.root(proof, hash) != rewardRoot) revert BadProof();
    }

    function _proveSlash(Slash calldata leaf, bytes32[] calldata proof) private view returns (bytes32 id) {
        bytes32 root = slashRoots[leaf.lastEpoch];
        bytes32 hash = keccak256(bytes.concat(keccak256(abi.encode(leaf))));
        if (MerklePath.root(proof, hash) != root) revert BadProof();
        id = keccak256(abi.encode(leaf.nodeKey, leaf.evidence));
    }

    /// What of a claimed amount vests: all but the part that is paid at once, which is rounded down.
    function _vestingPart(uint96 amount) internal view returns (uint96) {
        // 96 bits times 14, and at most the amount.
        unchecked {
            // forge-lint: disable-next-line(unsafe-typecast)
            return amount - uint96(uint256(amount) * immediateBps / BPS);
        }
    }

    /// What of a reward vests in all, and what of that has.
    function _vested(Vesting.Account storage a, Vesting.Head memory h, bytes32 id)
        private
        view
        returns (uint96 sum, uint96 vested)
    {
        sum = _vestingPart(h.seized ? h.claimed - seizedUnclaimed[id] : h.claimed);
        vested = a.vested(h, sum, block.timestamp - deployedAt, vestingPeriod);
    }
}
