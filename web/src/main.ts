import { SocketConnector } from "./connect/socket";
import { elementOf } from "./root/host";
import { render } from "./root/render";
import "./root/standalone.css";

const root = elementOf("app");
root.replaceChildren(); // the frame that stood for the page while it was on its way
render(root, new SocketConnector(), { standalone: true });
