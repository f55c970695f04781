// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {Base} from "./utils/Base.sol";

contract MusterTokenTest is Base {
    uint256 private constant KEY = 0xa11ce;
    bytes32 private constant PERMIT =
        keccak256("Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)");

    function test_supplyIsMintedOnceToTheTreasury() public view {
        vm.assertEq(token.totalSupply(), 42_000_000_000 * 10 ** 18, "supply");
        uint256 spent = 4_000_000e18;
        vm.assertEq(token.balanceOf(treasury), token.totalSupply() - spent, "treasury");
        vm.assertEq(token.decimals(), 18, "decimals");
        vm.assertEq(token.name(), "Muster", "name");
        vm.assertEq(token.symbol(), "MUST", "symbol");
    }

    function test_votesCountByTime() public {
        vm.assertEq(token.CLOCK_MODE(), "mode=timestamp", "mode");
        vm.assertEq(uint256(token.clock()), block.timestamp, "clock");
        vm.prank(consumer);
        token.delegate(stranger);
        vm.warp(START + 10);
        vm.prank(consumer);
        token.transfer(provider, 400_000e18);
        vm.warp(START + 20);
        vm.assertEq(token.getPastVotes(stranger, START + 5), 1_000_000e18, "before the transfer");
        vm.assertEq(token.getPastVotes(stranger, START + 15), 600_000e18, "after the transfer");
        vm.assertEq(token.getVotes(provider), 0, "nobody votes without delegating");
    }

    function test_permitApprovesOnceAndForItsDeadlineOnly() public {
        address owner = vm.addr(KEY);
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(KEY, digest(owner, 5e18, START));
        vm.warp(START + 1);
        vm.expectRevert();
        token.permit(owner, stranger, 5e18, START, v, r, s);
        vm.warp(START);
        token.permit(owner, stranger, 5e18, START, v, r, s);
        vm.assertEq(token.allowance(owner, stranger), 5e18, "allowance");
        vm.assertEq(token.nonces(owner), 1, "nonce");
        vm.expectRevert();
        token.permit(owner, stranger, 5e18, START, v, r, s);
    }

    function testFuzz_transfersConserve(uint256 amount) public {
        amount = bound(amount, 0, token.balanceOf(consumer));
        uint256 sum = token.balanceOf(consumer) + token.balanceOf(provider);
        vm.prank(consumer);
        token.transfer(provider, amount);
        vm.assertEq(token.balanceOf(consumer) + token.balanceOf(provider), sum, "sum");
    }

    function digest(address owner, uint256 value, uint256 deadline) private view returns (bytes32) {
        bytes32 inner = keccak256(abi.encode(PERMIT, owner, stranger, value, token.nonces(owner), deadline));
        return keccak256(abi.encodePacked("\x19\x01", token.DOMAIN_SEPARATOR(), inner));
    }
}
