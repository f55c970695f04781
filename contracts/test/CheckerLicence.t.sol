// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {CheckerLicence} from "../src/CheckerLicence.sol";
import {Base} from "./utils/Base.sol";

contract CheckerLicenceTest is Base {
    bytes32 private constant CHECKER = keccak256("checker");
    bytes32 private constant OTHER = keccak256("other checker");
    CheckerLicence private licences;

    function setUp() public override {
        super.setUp();
        licences = new CheckerLicence(address(token), address(registry), admin, treasury, 50, 10e18);
        vm.prank(consumer);
        token.approve(address(licences), type(uint256).max);
        vm.startPrank(provider);
        registry.register(3, CHECKER, "", 0, MIN_STAKE);
        registry.register(3, OTHER, "", 0, MIN_STAKE);
        vm.stopPrank();
    }

    function test_licencesAreBoughtAtThePriceUpToTheCap() public {
        uint256 before = token.balanceOf(treasury);
        vm.startPrank(consumer);
        vm.assertEq(licences.buy(3, 10e18), 1, "first");
        vm.assertEq(token.balanceOf(treasury) - before, 30e18, "paid");
        vm.assertEq(licences.ownerOf(3), consumer, "owner");
        vm.expectRevert(abi.encodeWithSelector(CheckerLicence.CapReached.selector, 47, 48));
        licences.buy(48, 10e18);
        vm.expectRevert(abi.encodeWithSelector(CheckerLicence.PriceAbove.selector, 10e18, 10e18 - 1));
        licences.buy(1, 10e18 - 1);
        vm.expectRevert(abi.encodeWithSelector(CheckerLicence.BadCount.selector, 0));
        licences.buy(0, 10e18);
        licences.buy(47, 10e18);
        vm.expectRevert(abi.encodeWithSelector(CheckerLicence.CapReached.selector, 0, 1));
        licences.buy(1, 10e18);
        vm.stopPrank();
    }

    function test_delegatingOneAndMany() public {
        vm.startPrank(consumer);
        licences.buy(4, 10e18);
        licences.delegateOne(1, CHECKER);
        licences.delegate(ids(2, 3), CHECKER);
        vm.assertEq(licences.delegatedCount(CHECKER), 3, "count");
        licences.delegate(ids(3, 4), OTHER);
        vm.assertEq(licences.delegatedCount(CHECKER), 2, "one changed over");
        vm.assertEq(licences.delegatedCount(OTHER), 2, "two");
        vm.assertEq(licences.delegateOf(3), OTHER, "delegate");
        licences.undelegate(ids(1, 2));
        vm.assertEq(licences.delegatedCount(CHECKER), 0, "none");
        vm.expectRevert(abi.encodeWithSelector(CheckerLicence.NotDelegated.selector, 1));
        licences.undelegateOne(1);
        vm.stopPrank();
        (address[] memory owners, bytes32[] memory delegates) = licences.page(2, 10);
        vm.assertEq(owners.length, 3, "page");
        vm.assertEq(owners[0], consumer, "owner");
        vm.assertEq(delegates[1], OTHER, "delegate");
        (owners,) = licences.page(5, 10);
        vm.assertEq(owners.length, 0, "beyond the end");
    }

    function test_aTransferEndsTheDelegation() public {
        vm.startPrank(consumer);
        licences.buy(1, 10e18);
        licences.delegateOne(1, CHECKER);
        licences.transferFrom(consumer, stranger, 1);
        vm.assertEq(licences.delegateOf(1), 0, "cleared");
        vm.assertEq(licences.delegatedCount(CHECKER), 0, "counted");
        vm.expectRevert(abi.encodeWithSelector(CheckerLicence.NotOwner.selector, 1, consumer));
        licences.delegateOne(1, CHECKER);
        vm.stopPrank();
    }

    function test_onlyOwnersDelegateAndOnlyToActiveCheckers() public {
        vm.startPrank(consumer);
        licences.buy(1, 10e18);
        vm.expectRevert(abi.encodeWithSelector(CheckerLicence.CheckerNotActive.selector, NODE));
        licences.delegateOne(1, NODE);
        vm.expectRevert(abi.encodeWithSelector(CheckerLicence.CheckerNotActive.selector, bytes32("nobody")));
        licences.delegate(ids(1, 1), "nobody");
        licences.delegateOne(1, CHECKER);
        vm.stopPrank();
        vm.startPrank(stranger);
        vm.expectRevert(abi.encodeWithSelector(CheckerLicence.NotOwner.selector, 1, stranger));
        licences.delegateOne(1, OTHER);
        vm.expectRevert(abi.encodeWithSelector(CheckerLicence.NotOwner.selector, 1, stranger));
        licences.undelegateOne(1);
        vm.expectRevert(abi.encodeWithSelector(CheckerLicence.NotOwner.selector, 9, stranger));
        licences.undelegateOne(9);
        vm.stopPrank();
        vm.prank(provider);
        registry.leave(CHECKER);
        vm.prank(consumer);
        licences.undelegateOne(1);
    }

    function test_aPauseStopsBuyingAndNothingElse() public {
        vm.prank(consumer);
        licences.buy(1, 10e18);
        vm.startPrank(admin);
        licences.pause();
        licences.setPrice(20e18);
        vm.stopPrank();
        vm.startPrank(consumer);
        vm.expectRevert();
        licences.buy(1, 20e18);
        licences.delegateOne(1, CHECKER);
        licences.undelegateOne(1);
        licences.transferFrom(consumer, stranger, 1);
        vm.stopPrank();
        vm.prank(admin);
        licences.unpause();
        vm.prank(consumer);
        licences.buy(1, 20e18);
        vm.prank(stranger);
        vm.expectRevert();
        licences.setPrice(0);
    }

    function test_theCapHasACap() public {
        vm.expectRevert(CheckerLicence.OutOfBounds.selector);
        new CheckerLicence(address(token), address(registry), admin, treasury, 100_001, 1);
        vm.expectRevert(CheckerLicence.OutOfBounds.selector);
        new CheckerLicence(address(token), address(registry), admin, treasury, 0, 1);
        vm.expectRevert(CheckerLicence.BadAddress.selector);
        new CheckerLicence(address(token), address(registry), admin, address(0), 1, 1);
        vm.assertTrue(licences.supportsInterface(0x80ac58cd), "ERC-721");
    }

    function ids(uint256 a, uint256 b) private pure returns (uint256[] memory list) {
        list = new uint256[](2);
        (list[0], list[1]) = (a, b);
    }
}
