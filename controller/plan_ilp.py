"""The plan as an integer program: a flow of one unit through the network, with the days' targets.

Slower than `greencache.controller.planner.plan` and of another origin, so each checks the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from greencache.controller.plan_network import Network, lay_out
from greencache.controller.plan_problem import Instance, Plan
from greencache.errors import SolverError

if TYPE_CHECKING:
    import pulp

__all__ = ["plan_ilp"]

_FEASIBILITY = 1e-9
"""By how much a row may be violated, in requests; HiGHS itself allows 1e-6 unless told."""


def plan_ilp(instance: Instance, *, time_limit_s: float = 60.0, gap: float = 0.0) -> Plan:
    """The plan of fewest grams, by PuLP and HiGHS.

    Parameters
    ----------
    instance:
        What is planned.
    time_limit_s:
        When the solver stops; a plan that it has by then is returned with its bound.
    gap:
        Share of its grams that the plan may be above the best one.

    Raises
    ------
    InfeasibleError
        If no plan holds an interval's floor or meets a day's target.
    SolverError
        If the solver is not installed, fails, or has no plan when its time is over.
    """
    try:
        import highspy  # noqa: F401 - PuLP imports it by itself, and says less if it is missing
        import pulp
    except ImportError as fault:
        raise SolverError(f"no solver ({fault}): pip install pulp highspy") from None
    network = lay_out(instance)
    problem, variables, arcs = _formulate(network, instance.start_node)
    solver = pulp.HiGHS(
        msg=False,
        threads=1,
        timeLimit=time_limit_s,
        gapRel=gap,
        gapAbs=0.0,
        primal_feasibility_tolerance=_FEASIBILITY,
        mip_feasibility_tolerance=_FEASIBILITY,
    )
    try:
        problem.solve(solver)
    except (pulp.PulpError, IndexError) as fault:  # the latter if there are no values to read
        raise SolverError(f"HiGHS gave no plan within {time_limit_s:g} s ({fault!r})") from None
    if problem.sol_status not in (pulp.LpSolutionOptimal, pulp.LpSolutionIntegerFeasible):
        said = pulp.LpSolution[problem.sol_status]
        raise SolverError(f"HiGHS gave no plan within {time_limit_s:g} s ({said})")
    taken = [at for at, variable in zip(arcs, variables, strict=True) if variable.varValue > 0.5]
    bound = float(problem.solverModel.getInfo().mip_dual_bound)
    if len(taken) != len(instance.day):
        raise SolverError(f"HiGHS gave no whole plan within {time_limit_s:g} s")
    plan = Plan.of(instance, network.choice[taken].astype(np.int64), "ilp", lower_bound=bound)
    if not instance.met_by(plan):
        raise SolverError("HiGHS gave a plan that misses a target: report this with the instance")
    return plan


def _formulate(
    network: Network, start: int
) -> tuple[pulp.LpProblem, list[pulp.LpVariable], list[int]]:
    """The program, its variables, and the arc of each; arcs are by interval."""
    import pulp

    problem = pulp.LpProblem("plan")
    variables: list[pulp.LpVariable] = []
    arcs: list[int] = []
    attained: list[list[tuple[pulp.LpVariable, float]]] = [[] for _ in network.needs]
    arriving: dict[int, list[tuple[pulp.LpVariable, float]]] = {start: []}
    for t, day in enumerate(network.day):
        leaving: dict[int, list[tuple[pulp.LpVariable, float]]] = {}
        for node, flow in arriving.items():
            first = int(network.first[t, node])
            for at in range(first, first + int(network.degree[t, node])):
                variable = problem.add_variable(f"x{len(arcs):07d}", 0, 1, pulp.LpInteger)
                variables.append(variable)
                arcs.append(at)
                flow.append((variable, -1.0))
                leaving.setdefault(int(network.next_node[at]), []).append((variable, 1.0))
                attained[day].append((variable, float(network.attained[at])))
            problem.addConstraint(pulp.LpAffineExpression(flow) == (0 if t else -1))
        arriving = leaving
    for terms, need in zip(attained, network.needs, strict=True):
        problem.addConstraint(pulp.LpAffineExpression(terms) >= float(need))
    grams = zip(variables, network.grams[arcs].tolist(), strict=True)
    problem.setObjective(pulp.LpAffineExpression(list(grams)))
    return problem, variables, arcs
