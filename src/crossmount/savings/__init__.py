"""The accounts of a fleet: what its pushes mounted, found, waited for and uploaded, by day."""

from crossmount.savings.accounts import AccountEntry as AccountEntry
from crossmount.savings.accounts import DayAccounts as DayAccounts
from crossmount.savings.accounts import LayerAccount as LayerAccount
from crossmount.savings.accounts import LayerIncrement as LayerIncrement
from crossmount.savings.accounts import MemoryAccounts as MemoryAccounts
from crossmount.savings.accounts import PushIncrement as PushIncrement
from crossmount.savings.report import Savings as Savings
from crossmount.savings.report import read_savings as read_savings
from crossmount.savings.tally import Tally as Tally
