"""The sentences of a derivation, in English and in Chinese."""

from __future__ import annotations

WORDS: dict[str, dict[str, str]] = {
    "en": {
        "comma": ", ",
        "title": "Maximum likelihood for {family}",
        "letters": "Parameters: {letters}.",
        "likelihood": "1. The likelihood of a sample",
        "likelihood_said": "The observations are independent, so their densities (or "
        "probabilities) multiply.",
        "where": "Sums over the sample:",
        "these": "With these observations:",
        "logarithm": "2. Its logarithm",
        "logarithm_said": "The logarithm has its maximum at the same point and turns the product "
        "into a sum.",
        "equations": "3. The likelihood equations",
        "equations_said": "At a maximum inside the parameter space the derivative with respect "
        "to every parameter is zero.",
        "slopes_said": "The derivatives with respect to the parameters:",
        "numbers": "With the values of the sample:",
        "solution": "4. The solution",
        "solution_said": "Solving for the parameters:",
        "no_closed": "The equations have no closed-form solution; for a sample, nll.fit solves them "
        "numerically.",
        "searched": "The equations have no closed-form solution; nll.fit solved them numerically "
        "for this sample (below).",
        "negative": "5. The negative log-likelihood",
        "negative_said": "Programs minimise, so they flip the sign: the negative "
        "log-likelihood is the loss. It has its minimum where "
        "the likelihood has its maximum; divided by n it is the mean loss per observation.",
        "information": "The information and the standard errors",
        "observed": "The observed information, minus the second derivatives of the log-likelihood:",
        "long": "The observed information, minus the second derivatives, is too long to show here.",
        "expected": "The expected information, its mean under the model:",
        "same": "It does not involve the data, so the expected information is the same.",
        "expected_scores": "The second derivatives are zero almost everywhere; the expected "
        "outer product of the scores "
        "serves as the information:",
        "no_information": "There is no information in the usual sense, because the support depends on "
        "the parameters.",
        "errors": "The standard errors, from its inverse at the estimate:",
        "inverse": "The standard errors are the square roots of the diagonal of its inverse, at "
        "the estimate.",
        "sample": "The sample",
        "values": "The statistics that the data enter through:",
        "estimate": "The estimate and its standard error:",
        "reached": "The log-likelihood at the maximum:",
        "status": "nll.fit agrees; its status: {status}.",
        "no_maximum": "Status of nll.fit: {status}.",
        "functions": "ψ is the digamma function, the derivative of log Γ; ψ₁ is the derivative of "
        "ψ.",
        "laplace": "The derivative with respect to μ is a sum of signs, which changes sign at the "
        "median m of the data, so the maximum is there. The other equation then gives σ, the mean distance from m, where A is the sum of "
        "the distances.",
        "uniform": "The equations have no solution: the derivative with respect to a is positive and "
        "that with respect to b negative everywhere. "
        "The likelihood rises as the interval shrinks, and is 0 once an observation is left out; "
        "so the maximum is at "
        "the smallest and the largest observation.",
        "pareto": "The derivative with respect to σ is positive everywhere: the likelihood rises with σ up to "
        "the smallest "
        "observation, and is 0 beyond it. The other equation then gives α, with W = Σ log(x / "
        "x_min); only α has an information.",
    },
    "zh": {
        "comma": "，",
        "title": "{family} 分布的最大似然估计",
        "letters": "参数：{letters}。",
        "likelihood": "1. 样本的似然函数",
        "likelihood_said": "各次观测相互独立，所以似然函数等于各观测的概率（或概率密度）的乘积。",
        "where": "样本的各个和：",
        "these": "代入这些观测值：",
        "logarithm": "2. 取对数",
        "logarithm_said": "对数函数单调递增，不改变最大值点的位置，却把乘积变成了求和。",
        "equations": "3. 似然方程",
        "equations_said": "若最大值点在参数空间内部，则对数似然函数对每个参数的偏导数在该点都等于零。",
        "slopes_said": "对各参数的偏导数：",
        "numbers": "代入样本的数值：",
        "solution": "4. 求解",
        "solution_said": "解方程，得到各参数的估计量：",
        "no_closed": "方程组没有解析解，需要用数值方法求解；给出样本时由 nll.fit 完成。",
        "searched": "方程组没有解析解；nll.fit 已对此样本求出数值解（见下文）。",
        "negative": "5. 负对数似然函数",
        "negative_said": "优化程序通常求最小值，因此改变符号：负对数似然函数就是损失函数。它的最小值点就是似然函数的最大值点；除以 n，即为每个观测的平均损失。",
        "information": "信息量与标准误",
        "observed": "观测信息，即对数似然函数二阶导数的相反数：",
        "long": "观测信息（二阶导数的相反数）的表达式太长，此处不列出。",
        "expected": "期望信息，即观测信息在模型下的数学期望：",
        "same": "其中不含数据，所以期望信息与它相同。",
        "expected_scores": "二阶导数几乎处处为零，因此用得分函数乘积的数学期望作为信息：",
        "no_information": "分布的支撑集随参数变化，这里不存在通常意义下的信息量。",
        "errors": "标准误由信息矩阵的逆在估计值处得到：",
        "inverse": "标准误是信息矩阵之逆在估计值处的对角元的平方根。",
        "sample": "这个样本",
        "values": "数据只通过下列各量进入：",
        "estimate": "估计值及其标准误：",
        "reached": "对数似然函数的最大值：",
        "status": "与 nll.fit 的结果一致，其状态为：{status}。",
        "no_maximum": "nll.fit 的状态为：{status}。",
        "functions": "ψ 是双伽玛函数，即 log Γ 的导数；ψ₁ 是 ψ 的导数。",
        "laplace": "对 μ 的导数是一些符号之和，它在样本中位数 m 处变号，最大值就在那里。"
        "再由另一个方程得到 σ，即各观测到 m 的平均距离，其中 A 是这些距离之和。",
        "uniform": "方程组无解：对 a 的导数处处为正，对 b 的导数处处为负。区间越短，似然越大；"
        "而只要漏掉一个观测，似然就变为零。所以最大值在样本的最小值和最大值处取得。",
        "pareto": "对 σ 的导数处处为正：似然随 σ 增大而增大，直到 σ 等于最小的观测，超过它之后似然为零。"
        "再由另一个方程得到 α，其中 W = Σ log(x / x_min)；只有 α 有信息量。",
    },
}
