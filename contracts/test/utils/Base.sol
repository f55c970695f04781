// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {LeaseEscrow} from "../../src/LeaseEscrow.sol";
import {MusterToken} from "../../src/MusterToken.sol";
import {Registry} from "../../src/Registry.sol";
import {Vm} from "./Vm.sol";

/// A deployed network with a few actors, and what most tests do with it.
abstract contract Base {
    // forge looks for this marker.
    bool public constant IS_TEST = true;
    Vm internal constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    uint128 internal constant MIN_STAKE = 1000e18;
    uint64 internal constant UNBONDING = 180 days;
    uint16 internal constant FEE_BPS = 2000;
    uint64 internal constant DELAY = 45 days;
    uint64 internal constant WINDOW = 3 days;
    uint256 internal constant START = 1_800_000_000;
    uint256 internal constant SESSION = 0x5e55;
    bytes32 internal constant NODE = keccak256("a container");

    address internal treasury = account("treasury");
    address internal admin = account("admin");
    address internal slasher = account("slasher");
    address internal rewarder = account("rewarder");
    address internal provider = account("provider");
    address internal consumer = account("consumer");
    address internal stranger = account("stranger");
    address internal penaltyPool = account("penalty pool");
    address internal feeRecipient = account("fee recipient");

    MusterToken internal token;
    Registry internal registry;
    LeaseEscrow internal escrow;

    function setUp() public virtual {
        vm.warp(START);
        token = new MusterToken(treasury);
        registry = new Registry(
            address(token), admin, [MIN_STAKE, MIN_STAKE / 2, MIN_STAKE / 4, MIN_STAKE / 8], UNBONDING, penaltyPool
        );
        escrow = newEscrow();
        bytes32 slasherRole = registry.SLASHER_ROLE();
        bytes32 rewarderRole = registry.REWARDER_ROLE();
        vm.startPrank(admin);
        registry.grantRole(slasherRole, slasher);
        registry.grantRole(rewarderRole, rewarder);
        vm.stopPrank();
        fund(provider, 1_000_000e18);
        fund(consumer, 1_000_000e18);
        fund(rewarder, 1_000_000e18);
        fund(stranger, 1_000_000e18);
        join(NODE);
    }

    function newEscrow() internal returns (LeaseEscrow) {
        return new LeaseEscrow(address(token), address(registry), admin, feeRecipient, FEE_BPS, DELAY, WINDOW);
    }

    /// Gives tokens and approves both contracts.
    function fund(address who, uint256 amount) internal {
        vm.prank(treasury);
        token.transfer(who, amount);
        vm.startPrank(who);
        token.approve(address(registry), type(uint256).max);
        token.approve(address(escrow), type(uint256).max);
        vm.stopPrank();
    }

    /// The provider registers a Container with three times the least stake.
    function join(bytes32 nodeKey) internal {
        vm.prank(provider);
        registry.register(1, nodeKey, "10.0.0.1:4433", keccak256("hardware"), 3 * MIN_STAKE);
    }

    function params(bytes32 salt, uint128 deposit) internal pure returns (LeaseEscrow.OpenParams memory) {
        return LeaseEscrow.OpenParams({
            salt: salt,
            container: NODE,
            indexer: keccak256("indexer"),
            sessionKey: vm.addr(SESSION),
            deposit: deposit,
            ratePerSecond: 1e15,
            maxSeconds: 1 days
        });
    }

    function openLease(bytes32 salt, uint128 deposit) internal returns (bytes32) {
        vm.prank(consumer);
        return escrow.open(params(salt, deposit));
    }

    /// A voucher's EIP-2098 signature.
    function signBy(uint256 key, bytes32 id, uint128 amount, uint64 asOf) internal view returns (bytes32, bytes32) {
        return compact(key, escrow.voucherDigest(id, amount, asOf));
    }

    function compact(uint256 key, bytes32 digest) internal pure returns (bytes32 r, bytes32 vs) {
        uint8 v;
        bytes32 s;
        (v, r, s) = vm.sign(key, digest);
        vs = bytes32(uint256(s) | (uint256(v - 27) << 255));
    }

    function redeem(bytes32 id, uint128 amount) internal {
        (bytes32 r, bytes32 vs) = signBy(SESSION, id, amount, 7);
        escrow.redeem(id, amount, 7, r, vs);
    }

    /// One entry of a packed batch.
    function entry(bytes32 id, uint128 amount) internal view returns (bytes memory) {
        (bytes32 r, bytes32 vs) = signBy(SESSION, id, amount, 7);
        return abi.encodePacked(id, amount, uint64(7), r, vs);
    }

    /// An entry that closes without a voucher.
    function bare(bytes32 id) internal pure returns (bytes memory) {
        return abi.encodePacked(id, uint128(0), uint64(0), bytes32(0), bytes32(0));
    }

    function statusOf(bytes32 id) internal view returns (uint8) {
        return escrow.lease(id).status;
    }

    function owed(address payee) internal view returns (uint256) {
        (uint256 due, uint256 pending) = escrow.claimable(payee);
        return due + pending;
    }

    /// Maps any value into min..=max; the ends come up more often than chance would have them.
    function bound(uint256 value, uint256 min, uint256 max) internal pure returns (uint256) {
        if (value >= min && value <= max) return value;
        if (value % 16 == 0) return min;
        if (value % 16 == 1) return max;
        return min + value % (max - min + 1);
    }

    function account(string memory name) internal pure returns (address) {
        return address(uint160(uint256(keccak256(bytes(name)))));
    }
}
