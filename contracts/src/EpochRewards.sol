// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {EpochOutcomes} from "./EpochOutcomes.sol";
import {Vesting} from "./Vesting.sol";

/// @title Rewards and slashes of the epochs
/// @notice Whoever has a leaf under the last final root is paid what its cumulative amount adds: a part at once, the
/// rest vests. Anybody can bring a leaf; the tokens go to the account that it names. Slashes under a final root take
/// what the node has in rewards, where its reward is given too, then its stake.
///
/// All together never get more than final outcomes grant, and those never grant more than was paid in.
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
        _prove(leaf, proof);
        Vesting.Account storage a = _accounts[rewardId(leaf.kind, leaf.key, leaf.account)];
        uint96 claimed = a.claimed;
        if (leaf.cumulative <= claimed) revert NothingToClaim();
        uint96 cumulative = SafeCast.toUint96(leaf.cumulative);
        _count(cumulative - claimed);
        uint96 seized = a.seized ? seizedUnclaimed[rewardId(leaf.kind, leaf.key, leaf.account)] : 0;
        uint96 before = claimed - seized;
        uint96 after_ = cumulative - seized;
        uint96 vestingBefore = _vestingPart(before);
        uint96 vestingAfter = _vestingPart(after_);
        uint32 at = Vesting.step(block.timestamp - deployedAt, vestingPeriod);
        uint32 lastAt = a.lastAt;
        // One point a step of the vesting: 2^24 of them take as many 64ths of a period.
        // forge-lint: disable-next-line(unsafe-typecast)
        a.count = uint24(a.advance(a.count, lastAt, vestingBefore, at));
        a.claimed = cumulative;
        a.lastAt = at;
        paid = (after_ - vestingAfter) - (before - vestingBefore);
        emit RewardClaimed(leaf.kind, leaf.key, leaf.account, after_ - before, paid);
        if (paid != 0) token.safeTransfer(leaf.account, paid);
    }

    /// @notice Pays out what has vested of what was claimed.
    function release(uint8 kind, bytes32 key, address account) external returns (uint128 amount) {
        Vesting.Account storage a = _accounts[rewardId(kind, key, account)];
        uint96 vested = _vested(a, kind, key, account);
        uint96 released = a.released;
        if (vested <= released) revert NothingToClaim();
        a.released = vested;
        amount = vested - released;
        emit RewardReleased(kind, key, account, uint128(amount));
        token.safeTransfer(account, amount);
    }

    // ---- slashes -------------------------------------------------------------------------------------------------

    /// @notice Executes a slash against the node's stake. Anybody may.
    function slash(Slash calldata leaf, bytes32[] calldata proof) external returns (uint128 taken) {
        bytes32 id = _proveSlash(leaf, proof);
        if (slashRest[id] != 0) revert AlreadySlashed(leaf.evidence);
        taken = registry.slash(leaf.nodeKey, leaf.amount, leaf.evidence);
        if (taken < leaf.amount) slashRest[id] = uint256(leaf.amount) - taken + 1;
        emit SlashExecuted(leaf.nodeKey, leaf.amount, taken, leaf.evidence);
    }

    /// @notice Executes a slash against the node's rewards first: what is not claimed of `reward`, then what has not been
    /// released, then against its stake. What a {slash} before this could not take is taken from rewards, too.
    function slashWithReward(
        Slash calldata leaf,
        bytes32[] calldata proof,
        Reward calldata reward,
        bytes32[] calldata rewardProof
    ) external returns (uint128 taken) {
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
    function slashSigner(uint64 sequence, address[] calldata committee, uint256 position, bytes32 nodeKey)
        external
        returns (uint128 taken)
    {
        Wrong memory wrong = condemned[sequence];
        bytes32 found = keccak256(abi.encodePacked(committee));
        if (found != wrong.committee) revert WrongCommittee(wrong.committee, found);
        address member = committee[position];
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

    /// @notice The leaf of a reward in its tree.
    function rewardLeaf(Reward calldata leaf) public pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(leaf))));
    }

    /// @notice The leaf of a slash in its tree.
    function slashLeaf(Slash calldata leaf) public pure returns (bytes32) {
        return keccak256(bytes.concat(keccak256(abi.encode(leaf))));
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
        claimed = a.claimed;
        vesting = _vestingPart(a.claimed - seizedUnclaimed[id]);
        released = a.released;
        uint96 vested = _vested(a, kind, key, account);
        releasable = vested > released ? vested - released : 0;
    }

    // ---- inside --------------------------------------------------------------------------------------------------

    /// Takes up to `amount` of what is not claimed of a reward, then of what has not been released.
    function _seize(Reward calldata reward, uint128 amount, bytes32 evidence) private returns (uint128 taken) {
        bytes32 id = rewardId(reward.kind, reward.key, reward.account);
        Vesting.Account storage a = _accounts[id];
        uint96 claimed = a.claimed;
        uint96 unclaimed = reward.cumulative > claimed ? SafeCast.toUint96(reward.cumulative) - claimed : 0;
        if (unclaimed > amount) unclaimed = uint96(amount);
        if (unclaimed != 0) {
            _count(unclaimed);
            a.claimed = claimed + unclaimed;
            a.seized = true;
            seizedUnclaimed[id] += unclaimed;
        }
        uint96 locked = _vestingPart(a.claimed - seizedUnclaimed[id]) - a.released;
        uint128 left = amount - unclaimed;
        if (locked > left) locked = uint96(left);
        // Counted as released: what vests next is what was taken.
        if (locked != 0) a.released += locked;
        taken = unclaimed + locked;
        if (taken != 0) emit RewardSeized(reward.key, unclaimed, locked, evidence);
    }

    /// Counts what is claimed or seized against what final outcomes grant.
    function _count(uint96 amount) private {
        uint128 total = claimedTotal + amount;
        if (total > cumulativeTotal) revert AboveTotal();
        claimedTotal = total;
    }

    function _prove(Reward calldata leaf, bytes32[] calldata proof) private view {
        if (!MerkleProof.verifyCalldata(proof, rewardRoot, rewardLeaf(leaf))) revert BadProof();
    }

    function _proveSlash(Slash calldata leaf, bytes32[] calldata proof) private view returns (bytes32 id) {
        bytes32 root = slashRoots[leaf.lastEpoch];
        if (root == 0 || !MerkleProof.verifyCalldata(proof, root, slashLeaf(leaf))) revert BadProof();
        id = keccak256(abi.encode(leaf.nodeKey, leaf.evidence));
    }

    /// What of a claimed amount vests: all but the part that is paid at once, rounded up.
    function _vestingPart(uint96 amount) private view returns (uint96) {
        // At most the amount.
        // forge-lint: disable-next-line(unsafe-typecast)
        return amount - uint96(uint256(amount) * immediateBps / BPS);
    }

    function _vested(Vesting.Account storage a, uint8 kind, bytes32 key, address account)
        private
        view
        returns (uint96)
    {
        uint96 counted = a.claimed;
        if (a.seized) counted -= seizedUnclaimed[rewardId(kind, key, account)];
        return a.vested(_vestingPart(counted), block.timestamp - deployedAt, vestingPeriod);
    }
}
